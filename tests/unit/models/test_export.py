"""Exports from Python, without the command line of `polyhead export`."""

from dataclasses import replace

import onnx
import pytest

from polyhead_models.config import AttentionConfig, ConfigError
from polyhead_models.export.export import check_size, export_block
from polyhead_models.export.precision import with_precision
from polyhead_models.graph import build_model
from polyhead_models.names import ModelNameError
from polyhead_models.random_block import random_block
from polyhead_models.store import StoreError

CONFIG = AttentionConfig(embed_dim=8, num_heads=2)


@pytest.fixture
def block():
    return random_block(CONFIG, seed=0)


def test_a_block_is_written_as_a_model(block, tmp_path):
    model = export_block(block, "mine", tmp_path / "models")
    assert model.file == tmp_path / "models" / "mine" / "1" / "model.onnx"
    assert model.file.read_bytes() == build_model(block)
    assert model.block is block
    onnx.checker.check_model(onnx.load(model.file))


def test_versions(block, tmp_path):
    export_block(block, "mine", tmp_path, version=3)
    assert export_block(block, "mine", tmp_path).file.parent.name == "4"
    with pytest.raises(StoreError, match="exists already"):
        export_block(block, "mine", tmp_path, version=3)
    assert export_block(block, "mine", tmp_path, version=3, overwrite=True).file.exists()


def test_a_precision(block, tmp_path):
    model = export_block(block, "mine", tmp_path, precision="int8")
    assert model.block.config.precision == "int8"
    assert model.block.provenance.precision_error > 0
    # without an argument, the block keeps its precision
    again = export_block(model.block, "mine", tmp_path)
    assert again.file.read_bytes() == model.file.read_bytes()
    assert again.file.read_bytes() == build_model(with_precision(block, "int8"))


@pytest.mark.parametrize(
    ("name", "precision", "error"),
    [("../mine", "", ModelNameError), ("mine", "float8", ConfigError)],
)
def test_refusals_write_nothing(block, tmp_path, name, precision, error):
    with pytest.raises(error):
        export_block(block, name, tmp_path, precision=precision)
    assert not [*tmp_path.iterdir()]


def test_the_size_limit_depends_on_the_precision():
    wide = AttentionConfig(embed_dim=16384, num_heads=128)  # 4 x 16384 x 16384 weights
    with pytest.raises(
        ConfigError, match=r"take 4\.0 GiB, and one ONNX file holds less than 2 GiB"
    ):
        check_size(wide)
    check_size(replace(wide, precision="int8"))
