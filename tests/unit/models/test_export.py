"""Exports from Python, without the command line of `polyhead export`."""

import tracemalloc
from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from polyhead_models.config import AttentionConfig, ConfigError
from polyhead_models.export.export import export_block
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


@pytest.mark.parametrize("precision", ["float32", "float16", "int8"])
def test_weights_that_one_file_does_not_hold_are_written_beside_the_graph(tmp_path, precision):
    block = random_block(AttentionConfig(embed_dim=64, num_heads=4, is_causal=True), seed=0)
    size = replace(block.config, precision=precision).weights_bytes
    models = [
        export_block(block, name, tmp_path, precision=precision, max_inline_bytes=limit)
        for name, limit in (("inline", size), ("wide", size - 1), ("again", size - 1))
    ]
    files = [{file.name: file.read_bytes() for file in m.file.parent.iterdir()} for m in models]
    assert files[0].keys() == {"model.onnx", "SHA256SUMS"}
    assert files[1].keys() == {"model.onnx", "model.onnx.data", "SHA256SUMS"}
    assert files[1] == files[2]
    assert len(files[1]["model.onnx"]) < len(files[0]["model.onnx"]) - 0.9 * size
    assert models[1].num_bytes == sum(len(files[1][n]) for n in ("model.onnx", "model.onnx.data"))
    inline, wide = (
        [*map(numpy_helper.to_array, onnx.load(model.file).graph.initializer)]
        for model in models[:2]
    )
    for expected, actual in zip(inline, wide, strict=True):
        np.testing.assert_array_equal(actual, expected)


def test_wide_weights_are_written_in_parts(tmp_path):
    """The transposed weights that are written are not copied as a whole."""
    block = random_block(AttentionConfig(embed_dim=2048, num_heads=4), seed=0)
    tracemalloc.start()
    try:
        export_block(block, "wide", tmp_path, max_inline_bytes=0)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 2.5 * (1 << 24) < block.config.weights_bytes
