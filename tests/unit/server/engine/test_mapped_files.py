"""Which mapped files of a model are copied into memory."""

from __future__ import annotations

import mmap
import os

import pytest

from polyhead_server.engine.mapped_files import copy_mapped_files, forget_mapped_pages

SIZE = 3 * mmap.PAGESIZE
pytestmark = pytest.mark.skipif(
    not hasattr(os, "memfd_create"), reason="elsewhere than on Linux nothing is copied"
)


@pytest.fixture
def mapped(tmp_path):
    """A file of a folder whose name has a line break, mapped as ONNX Runtime maps weights."""
    folder = tmp_path / "a\nmodel"
    folder.mkdir()
    (folder / "weights").write_bytes(bytes(range(256)) * (SIZE // 256))
    with (folder / "weights").open("rb") as file:
        memory = mmap.mmap(file.fileno(), SIZE, access=mmap.ACCESS_READ)
    with memory:
        forget_mapped_pages(folder)
        yield folder, memory


def test_what_was_not_read_is_not_copied(mapped):
    folder, _ = mapped
    assert copy_mapped_files(folder, only_resident=True) == 0


def test_what_was_read_is_copied_and_stays_when_the_file_is_truncated(mapped):
    folder, memory = mapped
    assert memory[mmap.PAGESIZE] == 0
    assert copy_mapped_files(folder, only_resident=True) == SIZE
    (folder / "weights").write_bytes(b"")
    assert memory[SIZE - 1] == 255


def test_files_of_other_folders_are_left_alone(mapped):
    folder, _ = mapped
    assert copy_mapped_files(folder / "weights", only_resident=False) == 0
    assert copy_mapped_files(folder.parent / "a", only_resident=False) == 0
