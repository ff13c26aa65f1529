"""How many threads `polyhead serve` has, by the number of its models."""

from __future__ import annotations

import numpy as np
import psutil
import pytest
from serving import serving

import polyhead
from polyhead_models.config import AttentionConfig
from polyhead_models.graph import build_model
from polyhead_models.random_block import random_block
from polyhead_models.store import write_model

THREADS, NUM_MODELS = 8, 6
POOL = THREADS - 1  # a run's first thread is the one that calls it


@pytest.fixture(scope="module")
def repositories(tmp_path_factory):
    """One model, and six."""
    model = build_model(random_block(AttentionConfig(embed_dim=64, num_heads=4), seed=3))
    folders = [tmp_path_factory.mktemp("one"), tmp_path_factory.mktemp("six")]
    for folder, num_models in zip(folders, (1, NUM_MODELS), strict=True):
        for index in range(num_models):
            write_model(folder, f"m{index}", model)
    return folders


def serve_and_count(repository, *options, threads=THREADS):
    """Serve a repository, run a model, and return its output and the number of threads."""
    query = np.random.default_rng(0).standard_normal((2, 256, 64), np.float32)
    arguments = "--models", repository, "--provider", "cpu", "--threads", threads, *options
    with serving(*arguments) as server, polyhead.Client(server.address) as client:
        output = client.attend(query, model="m0").output
        return output, psutil.Process(server.process.pid).num_threads()


# gRPC's own threads come and go: some more or fewer are no pool


def test_with_spinning_all_models_share_one_pool(repositories):
    one, six = repositories
    output, num_threads = serve_and_count(one, "--spinning")
    same_output, more_threads = serve_and_count(six, "--spinning")
    np.testing.assert_array_equal(same_output, output)
    assert abs(more_threads - num_threads) < POOL


def test_without_spinning_each_model_has_a_pool(repositories):
    one, six = repositories
    output, num_threads = serve_and_count(one)
    same_output, more_threads = serve_and_count(six)
    np.testing.assert_array_equal(same_output, output)
    assert abs(more_threads - num_threads - (NUM_MODELS - 1) * POOL) < POOL


def test_the_pools_of_many_models_have_as_many_threads_together_as_one_large_pool(repositories):
    one, six = repositories
    _, num_threads = serve_and_count(one, threads=129)
    _, more_threads = serve_and_count(six, threads=129)
    assert abs(more_threads - num_threads) < POOL


def test_with_one_thread_there_is_no_pool(repositories):
    one, six = repositories
    _, with_pool = serve_and_count(one)
    for options in ((), ("--spinning",)):
        _, num_threads = serve_and_count(six, *options, threads=1)
        assert num_threads < with_pool
