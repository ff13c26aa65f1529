"""Random blocks: reproducible, with outputs of order 1."""

from dataclasses import replace

import numpy as np
import pytest

from polyhead_models.config import AttentionConfig
from polyhead_models.random_block import random_block
from polyhead_models.reference.attention import attend

CONFIG = AttentionConfig(embed_dim=6, num_heads=2, head_dim=4, kdim=5, vdim=7)


def test_a_seed_always_gives_the_same_weights():
    block = random_block(CONFIG, seed=3)
    assert block.provenance.source == "random seed 3"
    # recorded, because it must not depend on the machine or on NumPy's version
    assert (
        block.provenance.weights_sha256
        == "462ddd5e2cb7ddb4b9f6bf7666fa4c4022d38361d7bd165654a35c38bccf7cfc"
    )


def test_another_seed_gives_other_weights():
    assert random_block(CONFIG, 0).weights_sha256() != random_block(CONFIG, 1).weights_sha256()


def test_biases_do_not_change_the_weights():
    with_bias, without = random_block(CONFIG, 0), random_block(CONFIG, 0, bias=False)
    assert {*with_bias.weights} - {*without.weights} == {
        f"{name}.bias" for name in ("q_proj", "k_proj", "v_proj", "out_proj")
    }
    for name, array in without.weights.items():
        np.testing.assert_array_equal(array, with_bias.weights[name])


@pytest.mark.parametrize("embed_dim", [8, 96, 768])
def test_projections_are_of_order_one(embed_dim):
    block = random_block(AttentionConfig(embed_dim=embed_dim, num_heads=8), seed=0)
    query = np.random.default_rng(0).normal(size=(1, 50, embed_dim))
    for array in (array for array in block.weights.values() if array.ndim == 2):
        assert 0.7 < (query @ array.T).std() < 1.3
    assert 0.1 < attend(block, query)[0].std() < 2


def test_variants_add_weights_and_change_no_others():
    plain = random_block(CONFIG, 3)
    config = replace(
        CONFIG,
        qk_norm_eps=1e-6,
        has_sinks=True,
        relative_buckets=8,
        relative_max_distance=16,
    )
    block = random_block(config, 3)
    added = {"q_norm.weight", "k_norm.weight", "relative_bias.weight", "sinks"}
    assert {*block.weights} - {*plain.weights} == added
    for name, array in plain.weights.items():
        np.testing.assert_array_equal(array, block.weights[name])
    for name in added:
        centre = 1.0 if "norm" in name else 0.0
        assert (np.abs(block.weights[name] - centre) <= 1.0).all()
        assert block.weights[name].dtype == np.float32
        assert block.weights[name].std() > 0
    assert random_block(config, 3).weights_sha256() == block.weights_sha256()


def test_a_block_without_projections():
    config = AttentionConfig(embed_dim=8, num_heads=2, has_in_proj=False, has_out_proj=False)
    assert not random_block(config, 0).weights


def test_a_negative_seed_is_refused():
    with pytest.raises(ValueError, match="non-negative"):
        random_block(CONFIG, -1)
