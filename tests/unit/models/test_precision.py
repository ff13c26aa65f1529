"""The error of float16 and int8: stated by the exporter, respected by the graph."""

from __future__ import annotations

import os
from dataclasses import replace

import numpy as np
import pytest

from polyhead_models.config import AttentionConfig, ConfigError
from polyhead_models.export.precision import with_precision
from polyhead_models.graph import build_model
from polyhead_models.quantization import product, quantized_weight
from polyhead_models.random_block import random_block
from polyhead_models.reference.attention import attend

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
import onnxruntime as ort

CONFIGS = {
    "plain": AttentionConfig(embed_dim=64, num_heads=4),
    "causal": AttentionConfig(embed_dim=64, num_heads=4, num_kv_heads=2, is_causal=True),
    "sinks": AttentionConfig(embed_dim=64, num_heads=4, has_sinks=True, softcap=5.0),
    "alibi": AttentionConfig(embed_dim=64, num_heads=4, has_alibi=True, qk_norm_eps=1e-6),
    "contexts": AttentionConfig(embed_dim=64, num_heads=4, has_out_proj=False),
}
LARGEST_ERROR = {"float16": 2e-3, "int8": 3e-2}


def run(block, x, *, need_weights):
    """Return the output of the graph's fused or explicit branch."""
    config = block.config
    options = ort.SessionOptions()
    options.log_severity_level = 4  # because it warns about inputs with defaults
    session = ort.InferenceSession(build_model(block), options, providers=["CPUExecutionProvider"])
    x = x.astype(config.dtype)
    feeds = {"query": x, "key": x, "value": x, "need_weights": np.array(need_weights)}
    if config.dtype == "float16":
        feeds |= {
            "attn_mask": np.zeros((0, 0, 0, 0), np.float16),
            "past_key": np.zeros((1, config.num_kv_heads, 0, config.head_dim), np.float16),
            "past_value": np.zeros((1, config.num_kv_heads, 0, config.v_head_dim), np.float16),
        }
    if config.depends_on_index:
        feeds["query_index"] = np.arange(x.shape[1])
    return session.run(["output"], feeds)[0]


@pytest.mark.parametrize("need_weights", [False, True])
@pytest.mark.parametrize("precision", ["float16", "int8"])
@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_the_graphs_error_is_near_the_stated_error(config, precision, need_weights):
    exact = random_block(config, seed=1)
    block = with_precision(exact, precision)
    stated = block.provenance.precision_error
    assert 0 < stated < LARGEST_ERROR[precision]
    x = np.random.default_rng(0).standard_normal((1, 32, 64)).astype(np.float32)
    expected, _ = attend(exact, x)
    output = run(block, x, need_weights=need_weights)
    assert output.dtype == block.config.dtype
    error = np.linalg.norm(output - expected) / np.linalg.norm(expected)
    assert error < 2 * stated


def test_int8_files_are_a_quarter_and_float16_files_half_the_size():
    block = random_block(AttentionConfig(embed_dim=256, num_heads=4), seed=1)
    sizes = {
        precision: len(build_model(with_precision(block, precision)))
        for precision in ("float32", "float16", "int8")
    }
    weights = sum(array.nbytes for array in block.weights.values())
    assert weights < sizes["float32"] < weights + 20_000
    assert weights / 2 < sizes["float16"] < weights / 2 + 20_000
    assert weights / 4 < sizes["int8"] < weights / 4 + 40_000


def test_an_int8_tokens_output_does_not_depend_on_later_tokens():
    config = AttentionConfig(embed_dim=16, num_heads=2, is_causal=True)
    block = with_precision(random_block(config, seed=1), "int8")
    x = np.random.default_rng(0).standard_normal((1, 6, 16)).astype(np.float32)
    loud = x.copy()
    loud[:, -1] *= 1000
    quiet_output, loud_output = (run(block, a, need_weights=False) for a in (x, loud))
    np.testing.assert_array_equal(quiet_output[:, :-1], loud_output[:, :-1])


def test_products_of_extreme_values_do_not_saturate():
    """Two products of 255 and 127 overflow the 16 bits of some processors' 8-bit kernels."""
    config = AttentionConfig(embed_dim=64, num_heads=1, has_out_proj=False)
    block = random_block(config, seed=1, bias=False)
    weights = {name: np.tile(np.float32([1, 0]), (64, 32)) for name in block.weights}
    block = with_precision(replace(block, weights=weights), "int8")
    output = run(block, np.ones((1, 2, 64), np.float32), need_weights=False)
    np.testing.assert_allclose(output, 32.0, rtol=1e-6)


def test_each_output_and_each_token_is_rounded_with_its_own_scale():
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((3, 5)).astype(np.float32) * [[1], [100], [1e-30]]
    weight = weight.astype(np.float32)
    quantized, scale = quantized_weight(weight.T)
    assert quantized.dtype == np.int8
    assert (np.abs(quantized).max(axis=0) > 63).all()
    np.testing.assert_allclose(quantized * scale, weight.T, atol=np.abs(scale / 2).max())
    x = rng.standard_normal((2, 4, 5)) * [[[1], [1e3], [1e-3], [0]]]
    rough, exact = product(x, weight, None, "int8"), x @ weight.astype(float).T
    bound = np.abs(x).max(-1, keepdims=True) * np.abs(weight).max(-1) * 5 / 63
    assert (np.abs(rough - exact) <= bound).all()


@pytest.mark.parametrize("width", [1, 2, 7, 384])
@pytest.mark.parametrize("sign", [1, -1, 0])
def test_neighbouring_weights_do_not_saturate_16_bits(width, sign):
    """Processors with AVX2 alone add 255 times two neighbours in 16 bits."""
    weight = np.random.default_rng(0).standard_normal((width, 50)).astype(np.float32)
    weight = weight if sign == 0 else np.abs(weight) * sign
    quantized, _ = quantized_weight(weight.astype(np.float32))
    pairs = np.zeros((width + width % 2, 50), int)
    pairs[:width] = quantized
    sums = np.array([np.maximum(s * pairs, 0).reshape(-1, 2, 50).sum(1) for s in (1, -1)])
    assert 125 < sums.max() <= 128


def test_tokens_with_one_sign_use_all_of_their_integers():
    x = np.linspace(1, 3, 50)[None]
    for sign in (1, -1):
        error = np.abs(product(sign * x, np.eye(50, dtype=np.float32), None, "int8") - sign * x)
        assert error.max() <= 3 / 255 / 2 + 1e-6


def test_float32_has_no_error_and_the_same_file():
    block = random_block(AttentionConfig(embed_dim=16, num_heads=2), seed=1)
    again = with_precision(block, "float32")
    assert again.provenance.precision_error == 0
    assert build_model(again) == build_model(block)


def test_blocks_that_cannot_be_rounded_are_refused():
    config = AttentionConfig(embed_dim=16, num_heads=2, has_in_proj=False, has_out_proj=False)
    with pytest.raises(ConfigError, match="int8 is for projections"):
        with_precision(random_block(config, seed=1), "int8")
    block = random_block(CONFIGS["plain"], seed=1)
    weights = dict(block.weights) | {"v_proj.weight": np.full((64, 64), 1e5, np.float32)}
    with pytest.raises(ConfigError, match=r"v_proj\.weight .* 100000"):
        with_precision(replace(block, weights=weights), "float16")
    with pytest.raises(ConfigError, match="expected one of float32, float16, int8"):
        with_precision(block, "int4")
