"""What a request costs, foreseen: which runs are done at once, and which give their memory back."""

from __future__ import annotations

import numpy as np
import pytest

from polyhead_models.config import AttentionConfig
from polyhead_server.call import AttentionInputs, WeightsSelection
from polyhead_server.cost import is_tiny, peak_bytes

PLAIN = AttentionConfig(embed_dim=768, num_heads=12)
HEADS = AttentionConfig(embed_dim=768, num_heads=96, has_in_proj=False, has_out_proj=False)
SINKS = AttentionConfig(embed_dim=768, num_heads=12, has_sinks=True, is_causal=True)
ONE_ROW = WeightsSelection(heads=(0,), queries=(0,), top_k=5)
LIMIT = 64 << 20


def inputs_of(length, weights=None, *, need_output=True, has_mask=False):
    # strides of 0: no memory, and the shape and size of the real thing
    array = np.broadcast_to(np.float32(0), (1, length, 768))
    mask = np.zeros((1, 1, 1, 1), np.float32) if has_mask else None
    return AttentionInputs(array, array, array, mask, None, weights, need_output=need_output)


@pytest.mark.parametrize(
    ("config", "inputs", "expected"),
    [
        (AttentionConfig(embed_dim=6, num_heads=2), inputs_of(1), True),
        (PLAIN, inputs_of(16), False),
        # little arithmetic, but megabytes to move
        (HEADS, inputs_of(8192, ONE_ROW, need_output=False), False),
        (HEADS, inputs_of(8, ONE_ROW, need_output=False), True),
    ],
)
def test_tiny_is_what_takes_less_than_changing_threads(config, inputs, expected):
    if config.embed_dim == 6:
        array = np.zeros((1, 10, 6), np.float32)
        inputs = AttentionInputs(array, array, array, None, None, None)
    assert is_tiny(config, inputs) is expected


def test_peak_counts_the_matrix_that_is_really_held():
    matrix = 12 * 4096 * 4096 * 4
    fused = peak_bytes(PLAIN, inputs_of(4096), LIMIT)
    assert fused < 64e6
    assert peak_bytes(PLAIN, inputs_of(4096, has_mask=True), LIMIT) > fused + LIMIT
    assert peak_bytes(SINKS, inputs_of(4096), 1 << 40) > 2 * matrix  # fused, and holds it
    assert peak_bytes(PLAIN, inputs_of(4096, WeightsSelection()), 1 << 40) > 2 * matrix
    row = peak_bytes(PLAIN, inputs_of(4096, ONE_ROW, need_output=False), LIMIT)
    assert row < fused
