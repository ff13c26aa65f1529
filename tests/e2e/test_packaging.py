"""The contents of wheel and sdist, and the client in an environment of its own."""

from __future__ import annotations

import hashlib
import os
import re
import sys
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING
from zipfile import ZipFile

import pytest
from environments import (
    base_requirements,
    build,
    make_environment,
    run,
    sdist_metadata,
    wheel_metadata,
)
from markdown_it import MarkdownIt

import polyhead
from polyhead_server.running import running_server

if TYPE_CHECKING:
    from collections.abc import Iterator
    from email.message import Message

    from markdown_it.token import Token

ADDRESS = "https://git.example.org/team/polyhead"
ROOT = Path(__file__).parents[2]
EXPORT = ("export", "random", "--name", "noise", "--out", "unwritten")
PACKAGES = ("polyhead", "polyhead_explorer", "polyhead_models", "polyhead_server")


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sdist, and the wheel that was built from it."""
    folder = tmp_path_factory.mktemp("dist")
    build(folder, ROOT)
    return folder


@pytest.fixture(scope="module")
def wheel(dist: Path) -> Path:
    [path] = dist.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same folder, built as a release: with the address of the project."""
    folder = tmp_path_factory.mktemp("released")
    build(folder, ROOT, POLYHEAD_PROJECT_URL=ADDRESS)
    return folder


@pytest.fixture(scope="module")
def client_bin(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bin folder of an environment with the wheel and what it requires, without extras."""
    return make_environment(tmp_path_factory.mktemp("client"), wheel)


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_wheel_holds_only_the_packages(wheel: Path) -> None:
    with ZipFile(wheel) as archive:
        names = set(archive.namelist())
    tops = {name.split("/")[0] for name in names if not re.search(r"\.(dist-info|data)/", name)}
    assert tops == set(PACKAGES)
    assert {f"{package}/py.typed" for package in PACKAGES} <= names
    builtin = "polyhead_models/builtin/river-bank/1"
    assert {f"{builtin}/{file}" for file in ("model.onnx", "SHA256SUMS")} <= names
    stubs = {"attention_pb2", "attention_pb2_grpc", "errors_pb2"}
    assert {f"polyhead/v1/{stub}.{ext}" for stub in stubs for ext in ("py", "pyi")} <= names
    protos = {path.name for path in (ROOT / "protos/polyhead/v1").iterdir()}
    assert {f"polyhead/v1/{proto}" for proto in protos} <= names
    assert not [name for name in names if re.search(r"/tests?[/_]|__pycache__", f"/{name}")]


def test_an_installation_has_the_documents_and_their_linked_files(client_bin: Path) -> None:
    result = run(client_bin / "polyhead", "--help")
    readme = Path(result.stdout.partition("Documentation: ")[2].strip())
    assert readme.is_relative_to(client_bin.parent.resolve())
    for document in (readme, *readme.parent.glob("docs/*.md"), *readme.parent.glob("*/*.md")):
        for link in re.findall(r"\]\(([^)#\s]+)", document.read_text()):
            assert link.startswith("http") or (document.parent / link).exists(), link


def test_sdist_has_the_files_for_packagers(dist: Path) -> None:
    [sdist] = dist.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {
        "LICENSE",
        "THIRD_PARTY.md",
        "Makefile",
        "README.md",
        "buf.yaml",
        "constraints/newest.txt",
    } <= names
    assert {"protos/polyhead/v1/attention.proto", "tests/e2e/test_packaging.py"} <= names
    assert not [name for name in names if "__pycache__" in name or name.startswith(".venv")]


def test_sdist_gives_the_same_wheel_as_the_tree(wheel: Path, tmp_path: Path) -> None:
    other = build(tmp_path, ROOT, "--wheel")
    with ZipFile(wheel) as one, ZipFile(other) as two:  # says which file differs
        assert {n: one.read(n) for n in one.namelist()} == {n: two.read(n) for n in two.namelist()}
    assert digest(wheel) == digest(other)


def test_sdist_is_the_same_from_another_folder_with_other_times(dist: Path, tmp_path: Path) -> None:
    [sdist] = dist.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path, filter="data")
    [tree] = tmp_path.iterdir()
    for path in tree.rglob("*"):
        path.chmod(path.stat().st_mode & 0o700)  # as a umask of 077 makes them
        os.utime(path, (1e9, 1e9))
    result = run(sys.executable, "-m", "build", "--no-isolation", "--sdist", tree)
    assert result.returncode == 0, result.stdout + result.stderr
    assert digest(tree / "dist" / sdist.name) == digest(sdist)


def metadata_of_both(folder: Path) -> list[Message]:
    [wheel], [sdist] = folder.glob("*.whl"), folder.glob("*.tar.gz")
    return [wheel_metadata(wheel), sdist_metadata(sdist)]


def tokens(text: str) -> Iterator[Token]:
    for token in MarkdownIt("commonmark").enable("table").parse(text):
        yield token
        yield from token.children or ()


def links(text: str) -> list[tuple[str, str]]:
    """Return each link and picture of a Markdown text, as the attribute and its value."""
    return [
        (name, str(value))
        for token in tokens(text)
        for name, value in token.attrs.items()
        if name in ("href", "src")
    ]


def codes(text: str) -> list[str]:
    return [token.content for token in tokens(text) if token.type in ("fence", "code_inline")]


def test_a_release_has_urls_of_files_that_exist(released: Path) -> None:
    tag = f"v{polyhead.__version__}"
    for metadata in metadata_of_both(released):
        urls = dict(url.split(", ") for url in metadata.get_all("Project-URL", []))
        assert urls.pop("Source") == ADDRESS
        assert urls.pop("Issues") == f"{ADDRESS}/issues"
        assert urls.keys() == {"Documentation", "Changelog"}
        for url in urls.values():
            assert (ROOT / url.removeprefix(f"{ADDRESS}/blob/{tag}/")).is_file(), url


def test_the_links_of_a_releases_readme_lead_to_the_tags_files(released: Path) -> None:
    tag = f"v{polyhead.__version__}"
    readme = (ROOT / "README.md").read_text()
    expected = []
    for name, target in links(readme):
        if re.match("https?:|#", target):
            expected.append((name, target))
        else:
            assert (ROOT / target.partition("#")[0]).exists(), target
            kind = {"href": "blob", "src": "raw"}[name]
            expected.append((name, f"{ADDRESS}/{kind}/{tag}/{target}"))
    for metadata in metadata_of_both(released):
        assert links(metadata.get_payload()) == expected
        assert codes(metadata.get_payload()) == codes(readme)


def test_without_an_address_there_are_no_urls_and_no_relative_links(dist: Path) -> None:
    readme = (ROOT / "README.md").read_text()
    absolute = [(name, target) for name, target in links(readme) if re.match("https?:|#", target)]
    for metadata in metadata_of_both(dist):
        assert "Project-URL" not in metadata
        assert links(metadata.get_payload()) == absolute
        assert "explicit (docs/variants.md#which-branch-runs)" in metadata.get_payload()


def test_an_sdist_of_a_release_keeps_the_address(released: Path, tmp_path: Path) -> None:
    [sdist], [wheel] = released.glob("*.tar.gz"), released.glob("*.whl")
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path, filter="data")
    [tree] = tmp_path.iterdir()
    assert digest(build(tmp_path / "again", tree, "--wheel")) == digest(wheel)


def test_a_malformed_address_is_refused(tmp_path: Path) -> None:
    command = (sys.executable, "-m", "build", "--no-isolation", "--sdist", "--outdir", tmp_path)
    result = run(*command, ROOT, POLYHEAD_PROJECT_URL="git@git.example.org:team/polyhead")
    assert result.returncode != 0
    assert "POLYHEAD_PROJECT_URL is 'git@git.example.org:team/polyhead'; expected" in result.stderr
    assert not list(tmp_path.iterdir())


def test_package_indexes_would_take_both(dist: Path, released: Path) -> None:
    twine = ROOT / ".venv-release/bin/twine"
    if not twine.exists():
        pytest.skip(f"{twine} is not there; `make check` installs it")
    result = run(twine, "check", "--strict", *dist.iterdir(), *released.iterdir())
    assert result.returncode == 0, result.stdout + result.stderr


def test_wheel_holds_licences(wheel: Path) -> None:
    with ZipFile(wheel) as archive:
        names = {name.partition(".dist-info/licenses/")[2] for name in archive.namelist()}
    assert {"LICENSE", "THIRD_PARTY.md"} <= names


def test_client_requires_three_distributions(wheel: Path) -> None:
    assert base_requirements(wheel) == {"grpcio", "numpy", "protobuf"}


def test_client_imports_without_extras(client_bin: Path) -> None:
    result = run(
        client_bin / "python",
        "-c",
        "import importlib.util, polyhead\n"
        "for name in ('onnx', 'onnxruntime', 'rich', 'grpc_health', 'safetensors'):\n"
        "    assert importlib.util.find_spec(name) is None, name\n"
        "print(polyhead.Client, polyhead.AsyncClient, polyhead.__file__)",
    )
    assert result.returncode == 0, result.stderr
    assert str(client_bin.parent) in result.stdout


def test_client_calls_a_server(client_bin: Path) -> None:
    with running_server() as server:
        result = run(
            client_bin / "python",
            "-c",
            "import numpy as np, polyhead, sys\n"
            "with polyhead.Client(sys.argv[1]) as client:\n"
            "    result = client.attend(np.ones((1, 3, 6), np.float32), model='river-bank')\n"
            "print(result.output.shape)",
            server.target,
        )
        info = run(client_bin / "polyhead", "info", "--server", server.target)
    assert result.stdout == "(1, 3, 6)\n", result.stderr
    assert info.returncode == 0, info.stderr


def test_command_line_describes_itself_without_extras(client_bin: Path) -> None:
    result = run(client_bin / "polyhead", "--help")
    assert result.returncode == 0, result.stderr
    for command in ("attend", "demo", "export", "info", "models", "serve"):
        assert f"\n    {command} " in result.stdout


@pytest.mark.parametrize(
    ("arguments", "extra"),
    [
        (("serve",), "server"),
        (("demo",), "demo"),
        ((*EXPORT, "--embed-dim", "6", "--num-heads", "2"), "export"),
    ],
)
def test_command_without_its_extra_names_the_install_command(
    client_bin: Path, arguments: tuple[str, ...], extra: str
) -> None:
    result = run(client_bin / "polyhead", *arguments)
    assert result.returncode == 1
    assert f"pip install 'polyhead[{extra}]'" in result.stderr
    assert "Traceback" not in result.stderr
