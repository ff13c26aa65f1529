"""Blocks are described in words, the same for a server's description and for an exported one."""

from __future__ import annotations

import pytest

from polyhead.cli.traits import heads_text, missing_projections, special_traits, visibility
from polyhead.types import AttentionSpec, RotarySpec


def spec(**special):
    plain = {
        "embed_dim": 16, "num_heads": 4, "head_dim": 4, "kdim": 16, "vdim": 16, "output_dim": 16,
        "is_causal": False, "scale": 0.5, "has_out_proj": True, "num_kv_heads": 4,
        "v_head_dim": 4, "sliding_window": 0, "softcap": 0.0, "rotary": None, "has_alibi": False,
        "relative_buckets": 0, "relative_max_distance": 0, "has_sinks": False,
        "qk_norm_eps": 0.0, "has_in_proj": True, "precision": "float32",
    }  # fmt: skip
    return AttentionSpec(**plain | special)


def rotary(**special):
    plain = {"dim": 4, "theta": 1e4, "is_interleaved": False, "scaling": "none", "factor": 1.0}
    return RotarySpec(**plain | special)


def test_a_plain_block_has_no_traits():
    assert special_traits(spec()) == []
    assert missing_projections(spec()) == ""
    assert visibility(spec()) == "bidirectional"
    assert heads_text(spec()) == "4"


@pytest.mark.parametrize(
    ("special", "trait"),
    [
        ({"sliding_window": 4096}, "sliding window 4096"),
        ({"rotary": rotary()}, "rotary (theta 10000)"),
        (
            {"rotary": rotary(dim=2, theta=5e5, is_interleaved=True, scaling="yarn", factor=4.0)},
            "rotary (2 of 4 dimensions, theta 500000, interleaved, yarn x4)",
        ),
        ({"has_alibi": True}, "ALiBi"),
        ({"relative_buckets": 32}, "32 relative position buckets"),
        ({"qk_norm_eps": 1e-6}, "q/k norm"),
        ({"scale": 1.0}, "scale 1"),
        ({"softcap": 50.0}, "softcap 50"),
        ({"has_sinks": True}, "sinks"),
    ],
)
def test_every_trait_is_described(special, trait):
    assert special_traits(spec(**special)) == [trait]


def test_further_traits():
    assert visibility(spec(is_causal=True)) == "causal"
    assert heads_text(spec(num_kv_heads=2)) == "4/2"
    assert missing_projections(spec(has_out_proj=False)) == "no output projection"
    assert missing_projections(spec(has_out_proj=False, has_in_proj=False)) == "no projections"


def test_heads_may_be_unspecified():
    assert special_traits(spec(head_dim=0, scale=0.0)) == ["scale 0"]
