"""Estimates of what a request costs: which requests run inline, and how much memory they take."""

from __future__ import annotations

import numpy as np
import pytest
from fake_requests import call_of

from polyhead_models.config import AttentionConfig
from polyhead_server.call import WeightsSelection
from polyhead_server.engine.cost import Batching, CostEstimate, fused_sequences
from polyhead_server.limits import InlineLimits

PLAIN = AttentionConfig(embed_dim=768, num_heads=12)
HEADS = AttentionConfig(embed_dim=768, num_heads=96, has_in_proj=False, has_out_proj=False)
SINKS = AttentionConfig(embed_dim=768, num_heads=12, has_sinks=True, is_causal=True)
ONE_ROW = WeightsSelection(heads=(0,), queries=(0,), top_k=5)
LIMIT = 64 << 20


def call_with(length, weights=None, *, need_output=True, has_mask=False, width=768):
    # strides of 0: the array has its shape and size, and takes no memory
    numbers = {"query": np.broadcast_to(np.float32(0), (1, length, width))}
    if has_mask:
        numbers["attn_mask"] = np.zeros((1, 1, 1, 1), np.float32)
    return call_of(numbers, weights=weights, need_output=need_output)


def estimate(config, call, max_scores_bytes=LIMIT, **limits):
    return CostEstimate.of(call, config, max_scores_bytes, InlineLimits(**limits))


def peak_bytes(config, call, max_scores_bytes):
    return estimate(config, call, max_scores_bytes).peak_bytes


@pytest.mark.parametrize(
    ("config", "call", "expected"),
    [
        (AttentionConfig(embed_dim=6, num_heads=2), call_with(10, width=6), True),
        (PLAIN, call_with(16), False),
        # little arithmetic, but megabytes to move
        (HEADS, call_with(8192, ONE_ROW, need_output=False), False),
        (HEADS, call_with(8, ONE_ROW, need_output=False), True),
    ],
)
def test_requests_that_take_less_than_a_handoff_to_a_thread_run_inline(config, call, expected):
    assert estimate(config, call).runs_inline is expected


def test_limits_of_inline_requests_are_exclusive():
    config, call = AttentionConfig(embed_dim=6, num_heads=2), call_with(10, width=6)
    cost = estimate(config, call)
    assert not estimate(config, call, max_multiply_adds=cost.multiply_adds).runs_inline
    assert estimate(config, call, max_multiply_adds=cost.multiply_adds + 1).runs_inline
    assert not estimate(config, call, max_moved_bytes=cost.moved_bytes).runs_inline
    assert estimate(config, call, max_moved_bytes=cost.moved_bytes + 1).runs_inline


def test_a_request_of_several_runs_does_not_run_inline():
    """Each key length is a run of its own."""
    config = AttentionConfig(embed_dim=6, num_heads=2)
    numbers = {"query": np.zeros((4, 10, 6), np.float32)}
    for lengths, expected in (((9, 9, 9, 9), True), ((9, 8, 9, 9), False)):
        call = call_of(numbers, kv_lengths=lengths)
        assert estimate(config, call).runs_inline is expected


def test_peak_bytes_count_a_score_matrix_only_where_one_is_held():
    matrix = 12 * 4096 * 4096 * 4
    fused = peak_bytes(PLAIN, call_with(4096), LIMIT)
    assert fused < 64e6
    assert peak_bytes(PLAIN, call_with(4096, has_mask=True), LIMIT) > fused + LIMIT
    assert peak_bytes(SINKS, call_with(4096), 1 << 40) > 2 * matrix  # fused, and holds it
    assert peak_bytes(PLAIN, call_with(4096, WeightsSelection()), 1 << 40) > 2 * matrix
    row = peak_bytes(PLAIN, call_with(4096, ONE_ROW, need_output=False), LIMIT)
    assert row < fused


def test_batches_on_a_gpu_are_larger_than_on_a_cpu():
    cpu, gpu = Batching.on("CPUExecutionProvider"), Batching.on("CUDAExecutionProvider")
    assert 0 < cpu.solo_above_tokens < cpu.max_tokens
    assert gpu.max_tokens > cpu.max_tokens
    assert gpu.solo_above_tokens > cpu.solo_above_tokens


@pytest.mark.parametrize("width", [3, 64])
def test_a_fused_run_takes_seconds_at_most_whatever_the_width_of_heads(width):
    """A score of narrow heads takes a nanosecond, although it has few multiply-adds."""
    config = AttentionConfig(embed_dim=2 * width, num_heads=2)
    lengths = [
        length
        for length in (10_000, 20_000, 30_000, 60_000)
        if fused_sequences(config, length, length, LIMIT, has_mask=False)
    ]
    assert lengths
    assert 2 * lengths[-1] ** 2 < 4e9
