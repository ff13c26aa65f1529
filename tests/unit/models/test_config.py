"""AttentionConfig: validation, defaults, and conversion to JSON and back."""

import dataclasses
import json
import math

import numpy as np
import pytest
from configs import attention_configs, block_of
from hypothesis import given
from hypothesis import strategies as st

from polyhead_models.blocks import AttentionBlock, Provenance
from polyhead_models.config import MAX_DIM, MAX_RELATIVE_DISTANCE, AttentionConfig, ConfigError
from polyhead_models.rotary import Rotary

ROTARY = Rotary(dim=4, scaling="llama3", factor=8.0, original_max_positions=64)
SDPA = {"has_in_proj": False, "has_out_proj": False}


def config(**values):
    return AttentionConfig(**({"embed_dim": 16, "num_heads": 4} | values))


def test_zeros_are_replaced_by_defaults():
    plain = config()
    assert (plain.num_kv_heads, plain.head_dim, plain.v_head_dim) == (4, 4, 4)
    assert (plain.kdim, plain.vdim, plain.output_dim) == (16, 16, 16)
    assert plain.scale == 0.5
    wide = config(num_kv_heads=2, head_dim=9, v_head_dim=5, kdim=3, has_out_proj=False)
    assert (wide.q_proj_dim, wide.k_proj_dim, wide.v_proj_dim, wide.context_dim) == (36, 18, 10, 20)
    assert (wide.kdim, wide.vdim, wide.output_dim, wide.scale) == (3, 16, 20, 1 / 3)


def test_without_projections_all_widths_follow_from_the_heads():
    heads = config(num_kv_heads=2, v_head_dim=8, **SDPA)
    assert (heads.embed_dim, heads.kdim, heads.vdim, heads.output_dim) == (16, 8, 16, 32)
    assert not heads.weight_shapes()
    assert not heads.bias_shapes()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"embed_dim": 0}, "embed_dim is 0; it must be at least 1"),
        ({"num_heads": -1}, "num_heads is -1; it must be at least 1"),
        ({"num_heads": 3}, "embed_dim 16 is not a multiple of num_heads 3"),
        ({"num_kv_heads": 3}, "num_heads 4 is not a multiple of num_kv_heads 3"),
        ({"num_kv_heads": 8}, "num_heads 4 is not a multiple of num_kv_heads 8"),
        ({"sliding_window": -1}, "sliding_window is -1; it must not be negative"),
        ({"kdim": MAX_DIM + 1}, f"kdim is above {MAX_DIM}"),
        ({"scale": -1.0}, "scale is -1.0; it must be positive, from 1e-20 to 1e"),
        ({"scale": math.inf}, "scale is inf"),
        ({"softcap": math.nan}, "softcap is nan"),
        (
            {"softcap": 5e-324},
            "softcap is 5e-324",
        ),  # it is 0 in float32, which would divide by zero
        ({"qk_norm_eps": -1e-6}, "qk_norm_eps is -1e-06"),
        ({"head_dim": 2**30}, "q_proj_dim, the width of all heads side by side, is 4294967296"),
        ({"v_head_dim": 2**30}, "v_proj_dim, the width of all heads"),
        ({"v_head_dim": 2**30, "num_kv_heads": 1}, "context_dim, the width of all heads"),
        ({"precision": "int4"}, "precision is 'int4'; expected one of float32, float16, int8"),
        ({"rotary": Rotary(dim=6)}, "rotary dim is 6; a head has no more than 4"),
        (SDPA | {"has_out_proj": True}, "has no output projection either"),
        (SDPA | {"embed_dim": 20, "head_dim": 4}, "embed_dim is 20; .* it is 16"),
        (SDPA | {"kdim": 9}, "kdim is 9; without input projections it is 16"),
        (SDPA | {"vdim": 9}, "vdim is 9"),
        ({"relative_max_distance": 8}, "needs relative_buckets"),
        ({"relative_buckets": 7, "relative_max_distance": 8}, "relative_buckets is 7"),
        ({"relative_buckets": 2, "relative_max_distance": 8}, "relative_buckets is 2"),
        ({"relative_buckets": 1, "relative_max_distance": 8, "is_causal": True}, "buckets is 1"),
        ({"relative_buckets": 32}, "max_distance is 0; with 32 buckets it must be above 8"),
        ({"relative_buckets": 32, "relative_max_distance": 8}, "max_distance is 8"),
        (
            {"relative_buckets": 32, "relative_max_distance": MAX_RELATIVE_DISTANCE + 1},
            f"at most {MAX_RELATIVE_DISTANCE}",
        ),
    ],
)
def test_invalid_values_are_refused(values, message):
    with pytest.raises(ConfigError, match=message):
        config(**values)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, False),
        ({"rotary": Rotary(dim=4), "has_sinks": True, "softcap": 3.0}, False),
        ({"is_causal": True}, True),
        ({"sliding_window": 3}, True),
        ({"has_alibi": True}, True),
        ({"relative_buckets": 8, "relative_max_distance": 16}, True),
    ],
)
def test_depends_on_index(values, expected):
    assert config(**values).depends_on_index is expected


@given(attention_configs())
def test_json_and_back(drawn):
    text = drawn.to_json()
    read = AttentionConfig.from_json(text)
    assert read == drawn
    assert read.to_json() == text
    assert "\n" not in text


@given(attention_configs())
def test_defaults_are_filled_in_once(drawn):
    assert dataclasses.replace(drawn) == drawn


@given(st.builds(Provenance, source=st.text(), precision_error=st.floats(0, 1)))
def test_provenance_to_json_and_back(drawn):
    assert Provenance.from_json(drawn.to_json()) == drawn


def test_fields_with_defaults_may_be_missing_in_json():
    assert AttentionConfig.from_json('{"embed_dim": 16, "num_heads": 4, "scale": 1}') == config(
        scale=1.0
    )


def changed(path, value):
    """Return the JSON of a configuration with one value replaced."""
    values = json.loads(config(rotary=ROTARY).to_json())
    *folders, name = path.split(".")
    target = values
    for folder in folders:
        target = target[folder]
    target[name] = value
    return json.dumps(values)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "AttentionConfig: not JSON"),
        ("[" * 100_000, "AttentionConfig: not JSON"),
        ("[]", "expected an object with the keys"),
        ("{}", "expected an object with the keys"),
        (changed("window", 3), "expected an object with the keys"),
        (changed("embed_dim", "16"), "embed_dim is '16', of the wrong type"),
        (changed("embed_dim", 16.0), "embed_dim is 16.0, of the wrong type"),
        (changed("num_heads", True), "num_heads is True, of the wrong type"),
        (changed("is_causal", 1), "is_causal is 1, of the wrong type"),
        (changed("embed_dim", 10**400), "embed_dim is larger"),
        (changed("scale", 10**400), "scale is larger"),
        (changed("scale", math.nan), "scale is nan"),
        (changed("precision", None), "precision is None, of the wrong type"),
        (changed("rotary", []), "Rotary: expected an object"),
        (changed("rotary", {}), "Rotary: expected an object"),
        (changed("rotary.dim", 3), "rotary dim is 3"),
        (changed("rotary.theta", "1"), "Rotary: theta is '1', of the wrong type"),
        (changed("rotary.short_factors", 1.0), "short_factors is of the wrong type"),
        (changed("rotary.short_factors", [[1.0]]), "short_factors is .*of the wrong type"),
        (changed("rotary.dim", 8), "rotary dim is 8; a head has no more than 4"),
    ],
)
def test_invalid_json_is_refused(text, message):
    with pytest.raises(ConfigError, match=message):
        AttentionConfig.from_json(text)


@given(attention_configs(), st.data())
def test_a_block_accepts_only_its_own_weights(drawn, data):
    block = block_of(drawn, 1)
    required = sorted(drawn.weight_shapes())

    def rebuilt(weights):
        return AttentionBlock(config=drawn, weights=weights, provenance=block.provenance)

    assert rebuilt(block.weights).weights_sha256() == block.weights_sha256()
    with pytest.raises(ConfigError, match="weight q_project is unknown"):
        rebuilt({**block.weights, "q_project": np.zeros(3, np.float32)})
    if required:
        name = data.draw(st.sampled_from(required))
        less = {other: array for other, array in block.weights.items() if other != name}
        with pytest.raises(ConfigError, match=f"weights are missing: {name}"):
            rebuilt(less)
        with pytest.raises(ConfigError, match=f"weight {name} has shape"):
            rebuilt({**block.weights, name: block.weights[name][np.newaxis]})
