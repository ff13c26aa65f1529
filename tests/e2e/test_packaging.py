"""The contents of wheel and sdist, and the client in an environment of its own."""

from __future__ import annotations

import hashlib
import os
import re
import sys
import tarfile
from pathlib import Path
from zipfile import ZipFile

import pytest
from environments import base_requirements, build, make_environment, run

from polyhead_server.running import running_server

pytestmark = pytest.mark.alone


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


def test_package_indexes_would_take_both(dist: Path) -> None:
    twine = ROOT / ".venv-release/bin/twine"
    if not twine.exists():
        pytest.skip(f"{twine} is not there; `make check` installs it")
    result = run(twine, "check", "--strict", *dist.iterdir())
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
