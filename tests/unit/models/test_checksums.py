"""Lists of checksums: what sha256sum reads, and what is refused."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import pytest

from polyhead_models.checksums import ChecksumError, check_files, write_checksums

needs_links = pytest.mark.skipif(sys.platform == "win32", reason="symbolic links take rights there")


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "1"
    folder.mkdir()
    for name in ("model.onnx", "model.onnx.data"):
        (folder / name).write_bytes(os.urandom(300_000))
    write_checksums(folder)
    return folder


@pytest.mark.skipif(not shutil.which("sha256sum"), reason="needs coreutils")
def test_sha256sum_reads_the_list(folder):
    command = ["sha256sum", "--check", "--strict", "SHA256SUMS"]
    printed = subprocess.run(command, cwd=folder, capture_output=True, check=True, text=True).stdout
    assert printed == "model.onnx: OK\nmodel.onnx.data: OK\n"


def test_intact_files(folder):
    assert check_files(folder, ["model.onnx", "model.onnx.data", "tokenizer.json"])
    (folder / "notes.txt").touch()
    assert check_files(folder, ["model.onnx"])


def test_a_list_that_sha256sum_wrote_in_binary_mode(folder):
    lines = (folder / "SHA256SUMS").read_text()
    (folder / "SHA256SUMS").write_text(lines.replace("  ", " *").removesuffix("\n"))
    assert check_files(folder, ["model.onnx"])


def test_a_folder_without_a_list(folder):
    (folder / "SHA256SUMS").unlink()
    assert not check_files(folder, ["model.onnx"])


def test_a_missing_file(folder):
    (folder / "model.onnx.data").unlink()
    with pytest.raises(ChecksumError, match=r"its 'model\.onnx\.data' is missing"):
        check_files(folder)


def test_a_flipped_bit(folder):
    content = bytearray((folder / "model.onnx.data").read_bytes())
    content[123_456] ^= 1
    (folder / "model.onnx.data").write_bytes(content)
    with pytest.raises(ChecksumError, match=r"its 'model\.onnx\.data' is damaged: .*copy it again"):
        check_files(folder)


def replace_by_folder(file):
    file.unlink()
    file.mkdir()


def replace_by_pipe(file):
    file.unlink()
    os.mkfifo(file)


def replace_by_link(file):
    outside = file.parent.parent / "outside"
    file.rename(outside)
    file.symlink_to(outside)


def replace_by_link_to_nothing(file):
    file.unlink()
    file.symlink_to("nothing")


def replace_by_device(file):
    file.unlink()
    file.symlink_to("/dev/zero")


DAMAGE = {
    "link to nothing": (replace_by_link_to_nothing, "is missing"),
    "folder": (replace_by_folder, "is not a regular file"),
    "pipe": (replace_by_pipe, "is not a regular file"),
    "device": (replace_by_device, "is not a regular file"),
    "link": (replace_by_link, "is a link to a file outside of its folder"),
}


@needs_links
@pytest.mark.parametrize(("damage", "problem"), DAMAGE.values(), ids=DAMAGE.keys())
@pytest.mark.parametrize("name", ["model.onnx", "SHA256SUMS"])
def test_what_is_no_file_of_the_folder_is_refused(folder, damage, problem, name):
    damage(folder / name)
    with pytest.raises(ChecksumError, match=f"its '{name}' {problem}"):
        check_files(folder)


@needs_links
def test_a_link_within_the_folder_is_a_file_of_it(folder):
    (folder / "data").mkdir()
    (folder / "model.onnx").rename(folder / "data" / "model.onnx")
    (folder / "model.onnx").symlink_to("data/model.onnx")
    assert check_files(folder, ["model.onnx"])


SUM = "0" * 64
LISTS = {
    "empty": b"",
    "text": b"no list",
    "short checksum": f"{SUM[1:]}  model.onnx\n".encode(),
    "upper case": f"{SUM.replace('0', 'A')}  model.onnx\n".encode(),
    "no name": f"{SUM}  \n".encode(),
    "folder": f"{SUM}  sub/model.onnx\n".encode(),
    "parent": f"{SUM}  ..\n".encode(),
    "outside": f"{SUM}  ../model.onnx\n".encode(),
    "absolute": f"{SUM}  /etc/passwd\n".encode(),
    "backslash": f"{SUM}  a\\b\n".encode(),
    "NUL": f"{SUM}  a\0b\n".encode(),
    "long name": f"{SUM}  {'a' * 256}\n".encode(),
    "twice": f"{SUM}  model.onnx\n{SUM}  model.onnx\n".encode(),
    "itself": f"{SUM}  SHA256SUMS\n".encode(),
    "not UTF-8": b"\xff" * 70,
    "huge": b"\n" * (64 << 10) + b"\n",
    "another file alone": f"{SUM}  notes.txt\n".encode(),
}


@pytest.mark.parametrize("content", LISTS.values(), ids=LISTS.keys())
def test_what_is_no_list_is_refused(folder, content):
    (folder / "SHA256SUMS").write_bytes(content)
    with pytest.raises(ChecksumError, match="its SHA256SUMS") as caught:
        check_files(folder, ["model.onnx"])
    assert len(str(caught.value)) < 200
