"""Adapts the README to package indexes, which show it without the repository's files.

POLYHEAD_PROJECT_URL names the repository's public address for a release. With it the packages have
the project's URLs, and the README's links lead to the files of the version's tag. Without it the
README names those files.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface

_VARIABLE = "POLYHEAD_PROJECT_URL"
_ADDRESS = re.compile(r"https://[\w.-]+(:\d+)?(/[\w.-]+)+")
_TARGET = r"\((?![a-z]+:|#)([^)\s]+)\)"  # neither an address nor a heading of the README
_PICTURE = re.compile(r"!\[([^\]]*)\]" + _TARGET)
_LINK = re.compile(r"\[([^\]]*)\]" + _TARGET)
_LINK_END = re.compile(r"\]" + _TARGET)  # only that, because a link may have a picture as its text


class ReadmeAndUrls(MetadataHookInterface):
    """Sets ``readme`` and ``urls``, which pyproject.toml declares as dynamic."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Set both. Raises ValueError if the variable has anything but a repository's address."""
        text = (Path(self.root) / "README.md").read_text(encoding="utf-8")
        address = os.environ.get(_VARIABLE, "")
        if not address:
            text, urls = name_files(text), {}
        elif _ADDRESS.fullmatch(address) and not address.endswith(".git"):
            tag = f"v{metadata['version']}"
            text, urls = link_files(text, address, tag), project_urls(address, tag)
        else:
            raise ValueError(
                f"{_VARIABLE} is {address!r}; expected the address of the repository's page, "
                "https://HOST/OWNER/NAME without a slash or .git at its end. Correct it, or unset "
                "it to build packages without URLs."
            )
        metadata["readme"] = {"content-type": "text/markdown", "text": text}
        metadata["urls"] = urls


def project_urls(address: str, tag: str) -> dict[str, str]:
    """Return the addresses that a package index lists beside the README."""
    return {
        "Documentation": f"{address}/blob/{tag}/README.md",
        "Source": address,
        "Changelog": f"{address}/blob/{tag}/CHANGELOG.md",
        "Issues": f"{address}/issues",
    }


def link_files(text: str, address: str, tag: str) -> str:
    """Make relative links and pictures absolute."""
    text = _PICTURE.sub(rf"![\1]({address}/raw/{tag}/\2)", text)
    return _LINK_END.sub(rf"]({address}/blob/{tag}/\1)", text)


def name_files(text: str) -> str:
    """Replace a relative link by its text and its file, and a picture by its description."""
    return _LINK.sub(_name_file, _PICTURE.sub(r"\1", text))


def _name_file(link: re.Match[str]) -> str:
    label, path = link.groups()
    return label if label.strip("`") == path else f"{label} ({path})"
