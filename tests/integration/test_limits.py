"""Sizes: what passes by default, what is refused and how, and what it costs in memory."""

from __future__ import annotations

import os
import sys
import threading
from typing import Self

import numpy as np
import psutil
import pytest
from serving import serving

import polyhead
from polyhead_models.config import AttentionConfig
from polyhead_models.graph import build_model
from polyhead_models.random_block import random_block
from polyhead_models.store import write_model
from polyhead_server.running import running_server

MIB = 1 << 20


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sizes")
    base = AttentionConfig(embed_dim=768, num_heads=12)
    causal = AttentionConfig(embed_dim=768, num_heads=12, is_causal=True)
    small = AttentionConfig(embed_dim=16, num_heads=16)
    for name, config in {"base": base, "causal": causal, "small": small}.items():
        write_model(folder, name, build_model(random_block(config, seed=1)))
    return folder


def embeddings(*shape):
    return np.random.default_rng(0).standard_normal(shape, dtype=np.float32)


def test_ten_megabytes_in_and_sixty_four_out_by_default(repository):
    with running_server(repository) as server, polyhead.Client(server.target) as client:
        query = embeddings(1, 10 * MIB // (768 * 4) + 1, 768)
        assert query.nbytes > 10 * MIB
        assert client.attend(query, model="base").output.shape == query.shape

        result = client.attend(embeddings(1, 1024, 16), model="small", need_weights=True)
        assert result.attn_weights.nbytes == 64 * MIB
        np.testing.assert_allclose(result.attn_weights.sum(axis=-1), 1, atol=1e-4)


@pytest.mark.parametrize("excess", [1.5, 3])  # below and above what gRPC itself lets in
def test_a_request_over_the_limit_names_limit_and_flag(repository, excess):
    with (
        running_server(repository, max_request_bytes=MIB) as server,
        polyhead.Client(server.target) as client,
    ):
        query = embeddings(1, int(excess * MIB) // (16 * 4), 16)
        with pytest.raises(polyhead.ResourceExhaustedError) as caught:
            client.attend(query, model="small")
        assert "--max-request-bytes" in str(caught.value)
        assert caught.value.reason == "REQUEST_TOO_LARGE"
        if excess < 2:
            assert str(MIB) in str(caught.value)
        assert client.attend(query[:, :8], model="small").output.shape == (1, 8, 16)


def test_a_response_over_the_limit_is_refused_before_compute_with_a_suggestion(repository):
    with (
        running_server(repository, max_response_bytes=MIB) as server,
        polyhead.Client(server.target) as client,
    ):
        query = embeddings(1, 512, 16)
        with pytest.raises(polyhead.ResourceExhaustedError) as caught:
            client.attend(query, model="small", need_weights=True)
        assert caught.value.reason == "OUTPUT_TOO_LARGE"
        assert "--max-response-bytes" in str(caught.value)
        # (1 MiB - 1 KiB - the output) / (16 heads x 512 keys x 4 bytes)
        assert "at most 30 queries" in str(caught.value)
        fitting = polyhead.Weights(queries=tuple(range(30)))
        result = client.attend(query, model="small", need_weights=fitting)
        assert result.attn_weights.shape == (1, 16, 30, 512)


@pytest.mark.parametrize("model", ["small", "causal"])
@pytest.mark.parametrize("argument", ["need_weights", "attn_mask"])
def test_a_score_matrix_over_the_limit_is_computed_in_parts(repository, model, argument):
    """The matrices take 2 x 16 x 200 x 200 x 4 = 5 MB, or 4 MB with 12 heads."""
    query = embeddings(2, 200, {"small": 16, "causal": 768}[model])
    asked = {"need_weights": True, "attn_mask": np.tri(200, dtype=bool)}
    given = {argument: asked[argument]}
    results = []
    for limit in (64 * MIB, MIB, 1 << 14):  # as a whole, some rows at a time, one row at a time
        with (
            running_server(repository, max_scores_bytes=limit, threads=1) as server,
            polyhead.Client(server.target) as client,
        ):
            results.append(client.attend(query, model=model, **given))
    whole = results[0]
    for parts in results[1:]:
        assert parts.execution.kernel == "explicit"
        np.testing.assert_allclose(parts.output, whole.output, rtol=0, atol=2e-5)
        if argument == "need_weights":
            np.testing.assert_allclose(parts.attn_weights, whole.attn_weights, rtol=0, atol=1e-6)


def test_a_single_row_over_the_limit_is_refused_with_a_suggestion(repository):
    with (
        running_server(repository, max_scores_bytes=1 << 14) as server,
        polyhead.Client(server.target) as client,
    ):
        query = embeddings(1, 300, 16)
        with pytest.raises(polyhead.ResourceExhaustedError) as caught:
            client.attend(query, model="small", need_weights=True)
        assert caught.value.reason == "SCORES_TOO_LARGE"
        assert "--max-scores-bytes" in str(caught.value)
        assert "at most 256 keys" in str(caught.value)  # 16 heads x 256 keys x 4 bytes
        assert client.attend(query[:, :256], model="small", need_weights=True)
        # where no scores are held, none need fit
        assert client.attend(query, model="small").execution.kernel == "fused"


class Peak:
    """Watches the largest memory of a process while a block runs."""

    def __init__(self, pid: int) -> None:
        self._process = psutil.Process(pid)
        self._done = threading.Event()
        self._watcher = threading.Thread(target=self._watch)

    def _rss(self) -> int:
        return self._process.memory_info().rss

    def _watch(self) -> None:
        while not self._done.wait(0.005):
            self._peak = max(self._peak, self._rss())

    def __enter__(self) -> Self:
        self._base = self._peak = self._rss()
        self._watcher.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._watcher.join()
        self.growth = self._peak - self._base


measures_memory = pytest.mark.skipif(
    sys.platform != "linux", reason="resident memory is measured on Linux"
)


@measures_memory
@pytest.mark.parametrize("model", ["base", "causal"])
def test_without_weights_no_score_matrix_is_allocated(repository, model):
    """S = 4096: the matrix would take 12 x 4096 x 4096 x 4 bytes = 805 MB."""
    with serving("--models", repository) as server:
        with polyhead.Client(server.address, timeout=120) as client:
            client.attend(embeddings(1, 64, 768), model=model)
            with Peak(server.process.pid) as peak:
                result = client.attend(embeddings(1, 4096, 768), model=model)
        assert result.execution.kernel == "fused"
        assert peak.growth < 250e6  # 142 MB measured, and 164 MB of the causal block


@measures_memory
def test_padding_costs_no_score_matrix_either(repository):
    with serving("--models", repository) as server:
        with polyhead.Client(server.address, timeout=120) as client:
            client.attend(embeddings(1, 64, 768), model="base")
            with Peak(server.process.pid) as peak:
                result = client.attend(
                    embeddings(2, 4096, 768), model="base", kv_lengths=[4096, 3000]
                )
        assert result.execution.kernel == "fused"
        # 315 MB measured; two matrices of 12 x 4096 x 4096 x 4 bytes would be 1.6 GB
        assert peak.growth < 400e6


@measures_memory
def test_memory_of_blocks_of_a_score_matrix_is_given_back(repository):
    with (
        serving("--models", repository) as server,
        polyhead.Client(server.address, timeout=120) as client,
    ):
        client.attend(embeddings(1, 64, 768), model="base", need_weights=True)
        process = psutil.Process(server.process.pid)
        before = process.memory_info().rss
        mask = np.ones((1, 1, 1, 3072), bool)  # 12 x 3072 x 3072 x 4 = 453 MB, 64 MiB at a time
        client.attend(embeddings(1, 3072, 768), model="base", attn_mask=mask)
        client.attend(embeddings(1, 64, 768), model="base")
        assert process.memory_info().rss - before < 150e6  # 76 MB measured


@measures_memory
@pytest.mark.parametrize("model", ["base", "causal"])
def test_a_mask_costs_blocks_of_the_score_matrix_and_not_the_whole(repository, model):
    with serving("--models", repository) as server:
        with polyhead.Client(server.address, timeout=120) as client:
            client.attend(embeddings(1, 64, 768), model=model)
            mask = np.ones((1, 1, 1, 4096), bool)
            mask[..., 5] = False
            with Peak(server.process.pid) as peak:
                result = client.attend(embeddings(1, 4096, 768), model=model, attn_mask=mask)
        assert result.execution.kernel == "explicit"
        # 291 MB measured, and 341 MB of the causal block; the matrix would take 805 MB, twice over
        assert peak.growth < 500e6


@measures_memory
def test_all_weights_of_a_long_sequence_stream_through_bounded_memory(repository):
    """S = 4096, 12 heads: 805 MB of weights, within 400 MB on either side."""
    with serving("--models", repository) as server:
        with polyhead.Client(server.address, timeout=300) as client:
            client.attend(embeddings(1, 64, 768), model="base")
            query = embeddings(1, 4096, 768)
            rows, size = 0, 0
            with Peak(server.process.pid) as peak, Peak(os.getpid()) as own:
                for block in client.attend_rows(query, model="base"):
                    assert block.first_row == rows
                    rows += block.attn_weights.shape[2]
                    size += block.attn_weights.nbytes
                    np.testing.assert_allclose(block.attn_weights[0, 5].sum(axis=-1), 1, rtol=1e-4)
        assert (rows, size) == (4096, 12 * 4096 * 4096 * 4)
        assert peak.growth < 400e6
        assert own.growth < 400e6
