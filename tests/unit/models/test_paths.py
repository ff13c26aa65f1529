"""Paths as strings, paths that are not UTF-8, and files of other kinds than expected."""

import os
import shutil
import subprocess
import sys
import zipfile

import pytest
from golden import GOLDEN

from polyhead_models.checkpoint import CheckpointError, load_checkpoint
from polyhead_models.checkpoint.checkpoint import Checkpoint
from polyhead_models.config import AttentionConfig
from polyhead_models.export import export_block
from polyhead_models.random_block import random_block
from polyhead_models.store import StoreError, write_model
from polyhead_models.torch_mha import load_torch_mha

BLOCK = random_block(AttentionConfig(embed_dim=8, num_heads=2), 0)
needs_odd_names = pytest.mark.skipif(sys.platform != "linux", reason="no such names elsewhere")
NOT_UTF8 = os.fsdecode(b"na\xffme")


class AnyPath:
    """An os.PathLike that is neither a string nor a pathlib.Path."""

    def __init__(self, path):
        self._path = str(path)

    def __fspath__(self):
        return self._path


@pytest.mark.parametrize("kind", [str, AnyPath])
def test_paths_may_be_strings_and_path_likes(kind, data, tmp_path):
    folder = kind(GOLDEN / "llama")
    assert Checkpoint.open(folder).name == "llama"
    assert load_checkpoint(folder, 0).provenance.source == "checkpoint llama"
    block = load_torch_mha(kind(data / "torch_mha" / "packed.safetensors"), num_heads=4)
    assert block.provenance.source == "torch packed.safetensors"
    file = export_block(BLOCK, "b", kind(tmp_path / "models")).file
    assert file == tmp_path / "models" / "b" / "1" / "model.onnx"
    assert write_model(kind(tmp_path / "models"), "b", b"").parent.name == "2"


@needs_odd_names
def test_checkpoints_whose_path_is_not_utf8_are_read(tmp_path, data):
    folder = tmp_path / NOT_UTF8
    shutil.copytree(GOLDEN / "llama", folder)
    assert load_checkpoint(folder, 0).provenance.source == "checkpoint na?me"
    file = tmp_path / f"{NOT_UTF8}.safetensors"
    shutil.copy(data / "torch_mha" / "packed.safetensors", file)
    assert load_torch_mha(file, num_heads=4).provenance.source == "torch na?me.safetensors"


@needs_odd_names
def test_a_repository_whose_path_is_not_utf8_is_refused(tmp_path):
    folder = tmp_path / NOT_UTF8
    for write in (lambda: write_model(folder, "b", b""), lambda: export_block(BLOCK, "b", folder)):
        with pytest.raises(StoreError, match="is not UTF-8, and ONNX Runtime opens no such path"):
            write()
    assert not folder.exists()
    folder.mkdir()
    (tmp_path / "link").symlink_to(folder)
    assert write_model(tmp_path / "link", "b", b"").exists()


def archive(file, name):
    with zipfile.ZipFile(file, "w") as zipped:
        zipped.writestr(name, b"\x80\x02}.")


@pytest.mark.parametrize(
    "write",
    [
        lambda file: archive(file, "mha/data.pkl"),
        lambda file: file.write_bytes(b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M"),
    ],
    ids=["archive", "the older format"],
)
def test_files_of_torch_save_are_refused_with_advice(write, tmp_path):
    file = tmp_path / "x.pt"
    write(file)
    with pytest.raises(
        CheckpointError, match=r"x\.pt is a pickle, as torch\.save writes it"
    ) as caught:
        load_torch_mha(file, num_heads=4)
    assert "safetensors.torch.save_file(torch.load(file, weights_only=True)" in str(caught.value)


def test_another_archive_is_not_taken_for_torchs(tmp_path):
    file = tmp_path / "x.npz"
    archive(file, "a.npy")
    with pytest.raises(CheckpointError, match="not an intact safetensors file"):
        load_torch_mha(file, num_heads=4)


def test_a_checkpoint_whose_weights_are_a_renamed_pickle(tmp_path):
    folder = tmp_path / "llama"
    shutil.copytree(GOLDEN / "llama", folder)
    archive(folder / "model.safetensors", "archive/data.pkl")
    with pytest.raises(CheckpointError, match=r"model\.safetensors is a pickle"):
        load_checkpoint(folder, 0)


@needs_odd_names
def test_weights_without_permission_are_not_called_damaged(tmp_path):
    """In a process of its own, because root may read every file."""
    folder = tmp_path / "llama"
    shutil.copytree(GOLDEN / "llama", folder)
    (folder / "model.safetensors").chmod(0)
    tmp_path.chmod(0o755)
    program = """
import os, sys
from polyhead_models.checkpoint import CheckpointError, load_checkpoint
os.chdir(sys.argv[1])
if os.getuid() == 0:
    os.setuid(65534)
try:
    load_checkpoint("llama", 0)
except CheckpointError as error:
    print(error)
"""
    command = [sys.executable, "-c", program, tmp_path]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert printed == "llama/model.safetensors cannot be read: Permission denied\n"
