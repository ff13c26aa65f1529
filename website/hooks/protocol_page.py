"""Writes reference/protocol.md from protos/polyhead/v1: services, messages, fields, comments.

buf compiles the files; its image has the comments by their places. The generators for other sites
make whole pages of their own, outside of this site's navigation and search.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files

    Path_ = tuple[int, ...]
    """A place in a file: numbers of fields and indices, as descriptor.proto defines them."""

_ROOT = Path(__file__).parents[2]
_PACKAGE = "polyhead.v1"
_FILES = ("attention", "forward", "execution", "tensor", "errors")
_MESSAGES, _ENUMS, _SERVICES = 4, 5, 6  # of a file
_FIELDS, _NESTED_MESSAGES, _NESTED_ENUMS = 2, 3, 4  # of a message
_MEMBERS = 2  # of a service or an enum
_PACKAGE_STATEMENT = 2
_HEAD = """\
# gRPC, polyhead.v1

Generated from the comments of the `.proto` files:
[attention.proto](../protos/polyhead/v1/attention.proto),
[forward.proto](../protos/polyhead/v1/forward.proto),
[execution.proto](../protos/polyhead/v1/execution.proto),
[tensor.proto](../protos/polyhead/v1/tensor.proto) and
[errors.proto](../protos/polyhead/v1/errors.proto). The wheel has them beside the stubs.
"""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the page."""
    by_name = {file["name"]: file for file in _image()["file"]}
    wanted = [by_name[f"polyhead/v1/{name}.proto"] for name in _FILES]
    text = _HEAD + "".join(line for file in wanted for line in _FilePage(file).lines())
    files.append(File.generated(config, "reference/protocol.md", content=text))
    return files


def _image() -> dict[str, Any]:
    buf = shutil.which("buf", path=f"{_ROOT / '.venv/bin'}{os.pathsep}{os.environ['PATH']}")
    if buf is None:
        raise PluginError("buf is neither in .venv nor on the PATH: `make .venv/installed`")
    command = [buf, "build", "--output", "-#format=json"]
    result = subprocess.run(command, cwd=_ROOT, capture_output=True, text=True, check=False)  # noqa: S603 - a fixed command
    if result.returncode:
        raise PluginError(f"buf cannot compile protos/:\n{result.stderr}")
    image: dict[str, Any] = json.loads(result.stdout)
    return image


class _FilePage:
    """The section of one .proto file."""

    def __init__(self, file: dict[str, Any]) -> None:
        self._file = file
        self._comments = {
            tuple(place.get("path", ())): place.get("leadingComments", "")
            for place in file["sourceCodeInfo"]["location"]
        }

    def lines(self) -> Iterator[str]:
        yield f"\n## {Path(self._file['name']).name}\n\n{self._comment(_PACKAGE_STATEMENT)}\n"
        for i, service in enumerate(self._file.get("service", ())):
            yield from self._service(service, (_SERVICES, i))
        for i, message in enumerate(self._file.get("messageType", ())):
            yield from self._message(message, (_MESSAGES, i))
        for i, enum in enumerate(self._file.get("enumType", ())):
            yield from self._enum(enum, (_ENUMS, i))

    def _service(self, service: dict[str, Any], path: Path_) -> Iterator[str]:
        yield f"\n### {service['name']}\n\n{self._comment(*path)}\n"
        for i, method in enumerate(service["method"]):
            request, response = _type(method["inputType"]), _type(method["outputType"])
            takes = "a stream of " if method.get("clientStreaming") else ""
            gives = "a stream of " if method.get("serverStreaming") else ""
            yield f"\n#### {method['name']}\n\nTakes {takes}{request}, returns {gives}{response}.\n"
            yield f"\n{self._comment(*path, _MEMBERS, i)}\n"

    def _message(self, message: dict[str, Any], path: Path_, outer: str = "") -> Iterator[str]:
        if message.get("options", {}).get("mapEntry"):
            return
        name = f"{outer}{message['name']}"
        yield f"\n### {name}\n\n{self._comment(*path)}\n"
        nested = {f".{_PACKAGE}.{name}.{n['name']}": n for n in message.get("nestedType", ())}
        for i, field in enumerate(message.get("field", ())):
            title = f"`{field['name']} = {field['number']}`, {_field_type(message, field, nested)}"
            yield _definition(title, self._comment(*path, _FIELDS, i))
        for i, inner in enumerate(message.get("nestedType", ())):
            yield from self._message(inner, (*path, _NESTED_MESSAGES, i), f"{name}.")
        for i, enum in enumerate(message.get("enumType", ())):
            yield from self._enum(enum, (*path, _NESTED_ENUMS, i), f"{name}.")

    def _enum(self, enum: dict[str, Any], path: Path_, outer: str = "") -> Iterator[str]:
        yield f"\n### {outer}{enum['name']}\n\n{self._comment(*path)}\n"
        for i, value in enumerate(enum["value"]):
            title = f"`{value['name']} = {value.get('number', 0)}`"
            yield _definition(title, self._comment(*path, _MEMBERS, i))

    def _comment(self, *path: int) -> str:
        return _markdown(self._comments.get(path, ""))


def _definition(title: str, text: str) -> str:
    """Write an entry of a definition list."""
    return f"\n{title}\n\n:   " + text.replace("\n", "\n    ") + "\n"


def _field_type(message: dict[str, Any], field: dict[str, Any], nested: dict[str, Any]) -> str:
    """Name a field's type, with what holds for its presence."""
    entry = nested.get(field.get("typeName", ""), {})
    if entry.get("options", {}).get("mapEntry"):
        key, value = (_plain_type(part) for part in entry["field"])
        return f"map from {key} to {value}"
    name = _plain_type(field)
    if field["label"] == "LABEL_REPEATED":
        return f"repeated {name}"
    if field.get("proto3Optional"):
        return f"optional {name}"
    if "oneofIndex" in field:
        return f"{name}, one of `{message['oneofDecl'][field['oneofIndex']]['name']}`"
    return name


def _plain_type(field: dict[str, Any]) -> str:
    return _type(field["typeName"]) if "typeName" in field else field["type"][5:].lower()


def _type(name: str) -> str:
    """Link a type of this package; name one of another."""
    short = name.removeprefix(f".{_PACKAGE}.")
    anchor = re.sub(r"[^\w-]", "", short.lower())
    return f"[{short}](#{anchor})" if short != name else f"`{name.lstrip('.')}`"


def _markdown(comment: str) -> str:
    """Make Markdown of a comment: its paragraphs, lists, and aligned columns as they are."""
    text = "\n".join(line.removeprefix(" ") for line in comment.splitlines())
    return "\n\n".join(map(_paragraph, re.split(r"\n\s*\n", text.strip("\n"))))


def _paragraph(text: str) -> str:
    if re.search(r"^[A-Z_]+ +\S", text) and all(
        re.match(r"[A-Z_]+ +\S|  ", line) for line in text.splitlines()
    ):
        return f"```text\n{text}\n```"
    text = re.sub(r"^ +\* ", "* ", text.replace("<", "&lt;"), flags=re.MULTILINE)
    return re.sub(r"(?<!\n)\n\* ", "\n\n* ", text, count=1)
