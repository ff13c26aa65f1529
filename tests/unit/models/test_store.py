"""Writing into a repository: names, versions, atomic writes."""

import threading
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest

from polyhead_models import store
from polyhead_models.checksums import check_files
from polyhead_models.names import ModelNameError, check_model_name
from polyhead_models.store import StoreError, write_model, write_version


@pytest.mark.parametrize("name", ["a", "0", "river-bank", "MiniLM_L6.v2", "x" * 128, "a..b"])
def test_valid_names(name):
    check_model_name(name)


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", ".hidden", "-flag", "_x", "a/b", "a\\b", "../a", "a b", "a\n", "é", "x" * 129],
)
def test_invalid_names(tmp_path, name):
    with pytest.raises(ModelNameError, match="letters, digits"):
        check_model_name(name)
    with pytest.raises(ModelNameError):
        write_model(tmp_path, name, b"model")
    assert not [*tmp_path.iterdir()]


def test_versions_count_up(tmp_path):
    repository = tmp_path / "new" / "models"
    for version in (1, 2):
        file = write_model(repository, "m", b"%d" % version)
        assert file == repository / "m" / str(version) / "model.onnx"
        assert file.read_bytes() == b"%d" % version
    write_model(repository, "m", b"", version=10)
    for other in ("notes", ".99", "99a"):
        (repository / "m" / other).mkdir()
    assert write_model(repository, "m", b"") == repository / "m" / "11" / "model.onnx"


@pytest.mark.parametrize("version", [0, -1, 2**63])
def test_impossible_versions(tmp_path, version):
    with pytest.raises(StoreError, match=f"version is {version}"):
        write_model(tmp_path, "m", b"", version)


def test_a_version_is_replaced_only_with_overwrite(tmp_path):
    file = write_model(tmp_path, "m", b"old", 3)
    with pytest.raises(StoreError, match=r"m/3 exists already; .*overwriting"):
        write_model(tmp_path, "m", b"new", 3)
    assert file.read_bytes() == b"old"
    assert write_model(tmp_path, "m", b"new", 3, overwrite=True) == file
    assert file.read_bytes() == b"new"
    assert write_model(tmp_path, "m", b"first", 4, overwrite=True).read_bytes() == b"first"
    assert sorted(path.name for path in file.parent.iterdir()) == ["SHA256SUMS", "model.onnx"]
    assert sorted(path.name for path in (tmp_path / "m").iterdir()) == ["3", "4"]


def test_written_files_have_default_permissions(tmp_path):
    (tmp_path / "plain").mkdir()
    (tmp_path / "plain" / "file").touch()
    file = write_model(tmp_path, "m", b"model")
    assert file.stat().st_mode == (tmp_path / "plain" / "file").stat().st_mode
    assert file.parent.stat().st_mode == (tmp_path / "plain").stat().st_mode


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_failed_write_leaves_nothing(tmp_path, monkeypatch, overwrite):
    def disk_full(file):
        raise OSError(28, "No space left on device")

    write_model(tmp_path, "m", b"whole")
    monkeypatch.setattr(store, "_flush", disk_full)
    with pytest.raises(OSError, match="No space left"):
        write_model(tmp_path, "m", b"other", 1 if overwrite else None, overwrite=overwrite)
    assert [path.name for path in (tmp_path / "m").iterdir()] == ["1"]
    assert (tmp_path / "m" / "1" / "model.onnx").read_bytes() == b"whole"


def test_a_version_of_several_files(tmp_path):
    def write(folder, files=("model.onnx", "model.onnx.data"), content="old"):
        for name in files:
            (folder / name).write_text(content)

    folder = write_version(tmp_path, "m", write)
    assert folder == tmp_path / "m" / "1"
    with pytest.raises(StoreError, match="exists already"):
        write_version(tmp_path, "m", write, 1)
    new = partial(write, files=("model.onnx", "tokenizer.json"), content="new")
    write_version(tmp_path, "m", new, 1, overwrite=True)
    assert {file.name for file in folder.iterdir()} == {
        "SHA256SUMS",
        "model.onnx",
        "tokenizer.json",
    }
    assert {(folder / name).read_text() for name in ("model.onnx", "tokenizer.json")} == {"new"}
    assert check_files(folder, ["model.onnx", "tokenizer.json"])
    assert [path.name for path in folder.parent.iterdir()] == ["1"]


def test_a_reader_sees_only_complete_files(tmp_path):
    contents = [bytes([i]) * 200_000 for i in range(8)]
    file = write_model(tmp_path, "m", contents[0], 1)
    seen, done = set(), threading.Event()

    def read():
        while not (seen and done.is_set()):
            for path in tmp_path.glob("m/[0-9]*/model.onnx"):
                with suppress(FileNotFoundError):  # a version is missing while it is replaced
                    seen.add(path.read_bytes())

    reader = threading.Thread(target=read)
    reader.start()
    for content in contents[1:]:
        write_model(tmp_path, "m", content, 1, overwrite=True)
        write_model(tmp_path, "m", content)
    done.set()
    reader.join()
    assert seen <= {*contents}
    assert file.read_bytes() == contents[-1]


def test_a_relative_repository(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    file = write_model(Path("models"), "block", b"content")
    assert file.read_bytes() == b"content"
    assert {path.name for path in tmp_path.glob("models/block/*")} == {"1"}


def test_the_highest_version_has_no_successor(tmp_path):
    write_model(tmp_path, "block", b"content", 2**63 - 1)
    with pytest.raises(StoreError, match="between 1 and"):
        write_model(tmp_path, "block", b"content")
