"""Sizes: what passes by default, what is refused and how, and what it costs in memory."""

from __future__ import annotations

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


def test_a_response_over_the_limit_is_refused_before_compute_with_what_fits(repository):
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
        fitting = polyhead.AttnWeights(queries=tuple(range(30)))
        result = client.attend(query, model="small", need_weights=fitting)
        assert result.attn_weights.shape == (1, 16, 30, 512)


@pytest.mark.parametrize("argument", ["need_weights", "attn_mask"])
def test_a_score_matrix_over_the_limit_is_refused_with_what_fits(repository, argument):
    with (
        running_server(repository, max_scores_bytes=4 * MIB) as server,
        polyhead.Client(server.target) as client,
    ):
        query = embeddings(1, 512, 16)
        asked = {"need_weights": True, "attn_mask": np.ones((512, 512), bool)}[argument]
        with pytest.raises(polyhead.ResourceExhaustedError) as caught:
            client.attend(query, model="small", **{argument: asked})
        assert caught.value.reason == "SCORES_TOO_LARGE"
        assert "--max-scores-bytes" in str(caught.value)
        assert "at most 128 queries" in str(caught.value)
        client.attend(query[:, :128], model="small", key=query, need_weights=True)
        # neither is involved: no such matrix
        assert client.attend(query, model="small").execution.kernel == "fused"


@pytest.mark.parametrize(
    ("model", "batch_size", "advice"),
    [
        ("small", 4, "at most 1 sequences"),
        ("causal", 4, "at most 1 sequences"),
        ("causal", 1, "shorter sequences"),
    ],
)
def test_what_fits_is_whole_sequences_first(repository, model, batch_size, advice):
    width = {"small": 16, "causal": 768}[model]
    limit = {1: MIB, 4: 16 * MIB}[batch_size]
    with (
        running_server(repository, max_scores_bytes=limit) as server,
        polyhead.Client(server.target) as client,
        pytest.raises(polyhead.ResourceExhaustedError, match=advice),
    ):
        client.attend(embeddings(batch_size, 512, width), model=model, need_weights=True)


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


@pytest.mark.skipif(sys.platform != "linux", reason="resident memory is measured on Linux")
@pytest.mark.parametrize("model", ["base", "causal"])
def test_without_weights_no_score_matrix_is_allocated(repository, model):
    """S = 8192: the matrix would take 12 x 8192 x 8192 x 4 = 3.2 GB; the bound is 400 MB."""
    with serving("--models", repository) as server:
        with polyhead.Client(server.address, timeout=120) as client:
            client.attend(embeddings(1, 64, 768), model=model)
            with Peak(server.process.pid) as peak:
                result = client.attend(embeddings(1, 8192, 768), model=model)
        assert result.execution.kernel == "fused"
        assert peak.growth < 400e6


@pytest.mark.skipif(sys.platform != "linux", reason="resident memory is measured on Linux")
def test_padding_costs_no_score_matrix_either(repository):
    with serving("--models", repository) as server:
        with polyhead.Client(server.address, timeout=120) as client:
            client.attend(embeddings(1, 64, 768), model="base")
            with Peak(server.process.pid) as peak:
                result = client.attend(
                    embeddings(2, 4096, 768), model="base", kv_lengths=[4096, 3000]
                )
        assert result.execution.kernel == "fused"
        assert peak.growth < 400e6  # two matrices of 12 x 4096 x 4096 x 4 bytes would be 1.6 GB


@pytest.mark.skipif(sys.platform != "linux", reason="resident memory is measured on Linux")
def test_memory_of_a_large_score_matrix_is_given_back(repository):
    with (
        serving("--models", repository) as server,
        polyhead.Client(server.address, timeout=120) as client,
    ):
        client.attend(embeddings(1, 64, 768), model="base", need_weights=True)
        process = psutil.Process(server.process.pid)
        before = process.memory_info().rss
        mask = np.ones((1, 1, 1, 3072), bool)  # 12 x 3072 x 3072 x 4 = 453 MB
        client.attend(embeddings(1, 3072, 768), model="base", attn_mask=mask)
        client.attend(embeddings(1, 64, 768), model="base")
        assert process.memory_info().rss - before < 150e6
