"""The JSON in a graph's metadata: configurations in which values are replaced by others.

An input is a program: each of its steps replaces a value, takes a key out or repeats an entry.
"""

from __future__ import annotations

import math

import numpy as np
from tests.fuzz.json_values import changed, programs

from polyhead_models.blocks import Provenance
from polyhead_models.config import AttentionConfig, ConfigError
from polyhead_models.position_bias import alibi_slopes
from polyhead_models.random_block import random_block
from polyhead_models.rotary import Rotary
from polyhead_models.whole_config import Stack, Sublayer, WholeConfig
from polyhead_server.errors import ModelFileError
from polyhead_server.repository.model_check import check_size

__all__ = ["check", "seeds"]


def check(data):
    number, text = changed(_TEXTS, data)
    _read(_KNOWN[number][0], text)


def seeds():
    return programs(_TEXTS)


def _read(cls, text):
    try:
        config = cls.from_json(text)
    except ConfigError:
        return
    assert cls.from_json(config.to_json()).to_json() == config.to_json()
    if cls is AttentionConfig:
        _check_block(config)
    elif cls is WholeConfig:
        for _, _, sublayer in config.sublayers():
            _check_block(sublayer.block)


def _check_block(config):
    """Compute what the server computes of a block's configuration."""
    try:
        check_size(config, 1 << 30)
    except ModelFileError:
        return
    assert math.isfinite(config.scale)
    assert config.weights_bytes >= 0
    assert config.bias_shapes().keys() >= set()
    assert config.fused_operator in {"", "MultiHeadAttention", "GroupQueryAttention"}
    if config.rotary:
        assert np.isfinite(config.rotary.pair_frequencies).all()
        assert np.isfinite(config.rotary.long_pair_frequencies).all()
    if config.has_alibi:
        alibi_slopes(config.num_heads)


def _known():
    rotary = Rotary(dim=4, scaling="llama3", factor=8.0, original_max_positions=64)
    block = AttentionConfig(embed_dim=8, num_heads=2, rotary=rotary, is_causal=True)
    bias = AttentionConfig(
        embed_dim=8, num_heads=2, relative_buckets=8, relative_max_distance=20, softcap=2.0
    )
    cross = AttentionConfig(embed_dim=8, num_heads=2, has_alibi=True)
    layers = (
        Sublayer(kind="self", attention=1, leave=2, enter=3, block=block),
        Sublayer(kind="cross", attention=4, leave=5, block=cross),
    )
    encoder = Stack(
        name="encoder",
        input="token_ids",
        hidden_size=8,
        output_size=8,
        embed=0,
        vocab_size=10,
        layers=((Sublayer(kind="self", attention=6, leave=7, block=bias),),),
    )
    decoder = Stack(
        name="decoder",
        input="token_ids",
        hidden_size=8,
        output_size=8,
        embed=8,
        finish=9,
        vocab_size=10,
        max_length=16,
        layers=(layers,),
    )
    image = Stack(
        name="vision",
        input="pixel_values",
        hidden_size=8,
        output_size=8,
        embed=0,
        max_length=5,
        input_shape=(3, 8, 8),
        patch_size=(4, 4),
        layers=((Sublayer(kind="self", attention=1, leave=2, block=bias),),),
    )
    provenance = random_block(cross, seed=1).provenance
    configs = [block, bias, WholeConfig(stacks=(encoder, decoder))]
    configs += [WholeConfig(stacks=(image,)), provenance]
    return [(type(config), config.to_json()) for config in configs]


_KNOWN = _known()
_TEXTS = [text for _, text in _KNOWN]
assert {cls for cls, _ in _KNOWN} == {AttentionConfig, WholeConfig, Provenance}
