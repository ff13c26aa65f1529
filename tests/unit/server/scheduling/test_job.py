"""Jobs of one batch key, run as one batch: each result is that of the job run alone."""

from __future__ import annotations

import gc
import tracemalloc

import numpy as np
import pytest
from fake_requests import FakeRequest, attend_job, call_of, rows_job, shared_job
from gated_scheduler import Gated, numbers_of

from polyhead_models.config import AttentionConfig
from polyhead_models.export.precision import with_precision
from polyhead_models.graph import build_model
from polyhead_models.random_block import random_block
from polyhead_models.rotary import Rotary
from polyhead_server.call import AttentionInputs, AttentionOutputs, Stage, WeightsSelection
from polyhead_server.engine.runs.attention_run import AttentionRun
from polyhead_server.engine.runs.cancellable import CancellableRun, RunCancelledError
from polyhead_server.engine.statistics import ModelStatistics
from polyhead_server.errors import InvalidRequestError, LimitExceededError

PLAIN = AttentionConfig(embed_dim=64, num_heads=4)
CAUSAL = AttentionConfig(embed_dim=64, num_heads=4, is_causal=True)
CONFIGS = {
    "mha": PLAIN,
    "causal": CAUSAL,
    "gqa": AttentionConfig(embed_dim=64, num_heads=4, num_kv_heads=2),
    "gqa-causal": AttentionConfig(embed_dim=64, num_heads=4, num_kv_heads=2, is_causal=True),
    "rotary": AttentionConfig(embed_dim=64, num_heads=4, rotary=Rotary(dim=16), is_causal=True),
    "cross": AttentionConfig(embed_dim=64, num_heads=4, kdim=12, vdim=20),
    "sinks": AttentionConfig(embed_dim=64, num_heads=4, is_causal=True, has_sinks=True),
    "sdpa": AttentionConfig(
        embed_dim=64, num_heads=4, num_kv_heads=2, has_in_proj=False, has_out_proj=False
    ),
    "float16": CAUSAL,
    "int8": CAUSAL,
}
FORMS = {
    "output": {},
    "all weights": {"weights": WeightsSelection()},
    "top keys": {"weights": WeightsSelection(heads=(2, 0), queries=(1,), top_k=2)},
    "mean": {"weights": WeightsSelection(average_heads=True, stage=Stage.MASKED)},
    "weights alone": {"weights": WeightsSelection(queries=(0, 2)), "need_output": False},
}
BATCH_SIZES = (1, 3, 2, 1, 5)
# Here it is bit for bit; at a width of 384, up to 9e-8. Float16 may round such numbers apart.
TOLERANCES = {"float16": 1e-3}


@pytest.fixture(scope="module")
def variants(engine, tmp_path_factory):
    """The loaded models, by name."""
    folder = tmp_path_factory.mktemp("variants")
    loaded = {}
    for name, config in CONFIGS.items():
        block = random_block(config, seed=5)
        if name in ("float16", "int8"):
            block = with_precision(block, name)
        (folder / f"{name}.onnx").write_bytes(build_model(block))
        loaded[name] = engine.load(name, 1, folder / f"{name}.onnx")
    return loaded


def numbers_for(config, batch_size, seed, *, kv_seq_len=0, dtype=np.float32):
    """Make a request's arrays: 3 queries, and keys if the model or ``kv_seq_len`` asks for them."""
    rng = np.random.default_rng(seed)
    widths = {"query": (3, config.embed_dim)}
    if kv_seq_len or not config.embed_dim == config.kdim == config.vdim:
        length = kv_seq_len or 3
        widths |= {"key": (length, config.kdim), "value": (length, config.vdim)}
    return {
        name: rng.standard_normal((batch_size, *shape)).astype(dtype)
        for name, shape in widths.items()
    }


def together(jobs):
    first, *others = jobs
    return first.make_batch(others).run()


def alone(make_job):
    (result,) = make_job().make_batch(()).run()
    return result


def arrays_of(outputs):
    arrays = {"output": outputs.output, "weights": outputs.attn_weights, "keys": outputs.top_keys}
    return {name: array for name, array in arrays.items() if array is not None}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", CONFIGS)
def test_a_batch_gives_each_job_the_result_of_a_run_alone(variants, name, form):
    model = variants[name]
    for kv_seq_len in (0, 5):
        makes = [
            lambda size=size, seed=seed, length=kv_seq_len: shared_job(
                model, numbers_for(model.config, size, seed, kv_seq_len=length), **FORMS[form]
            )
            for seed, size in enumerate(BATCH_SIZES)
        ]
        for make, (outputs, timing) in zip(
            makes, together([make() for make in makes]), strict=True
        ):
            expected, own_timing = alone(make)
            assert timing.batch_size == sum(BATCH_SIZES)
            assert own_timing.batch_size == make().batch_size
            assert outputs.is_fused == expected.is_fused
            given, wanted = arrays_of(outputs), arrays_of(expected)
            assert given.keys() == wanted.keys()
            for array in wanted:
                np.testing.assert_allclose(
                    given[array], wanted[array], rtol=0, atol=TOLERANCES.get(name, 1e-6)
                )


def test_jobs_of_different_input_dtypes_run_together(variants):
    model = variants["sdpa"]
    makes = [
        lambda dtype=dtype, size=size: shared_job(
            model, numbers_for(model.config, size, 3, kv_seq_len=4, dtype=dtype)
        )
        for dtype, size in ((np.float32, 2), (np.float64, 1), (np.float16, 3))
    ]
    for make, (outputs, timing) in zip(makes, together([make() for make in makes]), strict=True):
        assert timing.batch_size == 6
        np.testing.assert_allclose(outputs.output, alone(make)[0].output, rtol=0, atol=1e-6)


# ---------------------------------------------------------------- failures


@pytest.mark.parametrize("place", range(3))
@pytest.mark.parametrize("number", [np.nan, np.inf, 1e300])
def test_a_request_with_invalid_numbers_is_refused_and_the_others_results_do_not_change(
    variants, place, number
):
    model = variants["mha"]

    def make(index):
        numbers = numbers_for(model.config, index + 1, index, dtype=np.float64)
        if index == place:
            numbers["query"][0, 1, 2] = number
        return shared_job(model, numbers)

    results = together([make(index) for index in range(3)])
    refused = results[place]
    assert isinstance(refused, InvalidRequestError)
    assert (refused.field, refused.reason) == ("query.data", "NON_FINITE")
    for index, result in enumerate(results):
        if index != place:
            np.testing.assert_array_equal(
                result[0].output, alone(lambda index=index: make(index))[0].output
            )


class Faulty(FakeRequest):
    """A request that cannot be read, or not be answered."""

    def __init__(self, numbers, *, reads=True):
        super().__init__(numbers)
        self._reads = reads

    def arrays(self):
        if not self._reads:
            raise ZeroDivisionError("read")
        return super().arrays()

    def respond(self, executed_by, *result):
        raise ZeroDivisionError("respond")


@pytest.mark.parametrize("reads", [False, True])
def test_an_unexpected_error_of_one_request_does_not_fail_the_others(variants, reads):
    model = variants["mha"]
    numbers = [numbers_for(model.config, 1, seed) for seed in range(3)]
    faulty = shared_job(model, numbers[1], request=Faulty(numbers[1], reads=reads))
    good = [shared_job(model, numbers[0]), shared_job(model, numbers[2])]
    first, error, last = together([good[0], faulty, good[1]])
    assert isinstance(error, ZeroDivisionError)
    assert error.__traceback__  # for the log
    for result, own in ((first, numbers[0]), (last, numbers[2])):
        expected, _ = alone(lambda own=own: shared_job(model, own))
        np.testing.assert_array_equal(result[0].output, expected.output)


class Failing:
    """A real model whose runs of several sequences fail."""

    def __init__(self, model, error):
        self._model, self._error = model, error
        self.config, self.batching = model.config, model.batching
        self.max_scores_bytes, self.run_options = model.max_scores_bytes, model.run_options
        self.execution_info = model.execution_info
        self.statistics = ModelStatistics()
        self.batch_sizes = []

    def run_graph(self, names, feeds, options):
        self.batch_sizes.append(len(feeds["query"]))
        if self.batch_sizes[-1] > 1:
            raise self._error
        return self._model.run_graph(names, feeds, options)


OUT_OF_MEMORY = RuntimeError("Failed to allocate memory for requested buffer of size 1")


@pytest.mark.parametrize("error", [RuntimeError("broken"), MemoryError(), OUT_OF_MEMORY])
def test_after_a_failed_batch_each_job_runs_alone(variants, error):
    model = Failing(variants["mha"], error)
    numbers = [numbers_for(model.config, size, size) for size in (1, 2, 1)]
    results = together([shared_job(model, own) for own in numbers])
    assert model.batch_sizes == [4, 1, 2, 1]
    for place in (0, 2):
        outputs, timing = results[place]
        assert timing.batch_size == 1
        expected, _ = alone(lambda place=place: shared_job(model, numbers[place]))
        np.testing.assert_array_equal(outputs.output, expected.output)
    if "broken" in str(error):
        assert results[1] is error
    else:
        assert isinstance(results[1], LimitExceededError)
        assert (results[1].limit, results[1].reason) == ("memory", "OUT_OF_MEMORY")


def test_a_job_that_fails_alone_is_not_run_again(variants):
    model = Failing(variants["mha"], RuntimeError("broken"))
    (error,) = together([shared_job(model, numbers_for(model.config, 2, 0))])
    assert str(error) == "broken"
    assert model.batch_sizes == [2]


# ---------------------------------------------------------------- cancellation


def test_a_batch_runs_until_its_last_caller_has_cancelled(models):
    model = Gated(models["plain"])
    model.gate.set()
    jobs = [shared_job(model, numbers_of(number)) for number in range(3)]
    batch = jobs[0].make_batch(jobs[1:])
    batch.cancel_one()
    batch.cancel_one()
    assert len(batch.run()) == 3
    assert model.begun == [0, 1, 2]


def test_a_batch_whose_callers_have_all_cancelled_does_not_run(models):
    model = Gated(models["plain"])
    jobs = [shared_job(model, numbers_of(number)) for number in range(2)]
    batch = jobs[0].make_batch(jobs[1:])
    batch.cancel_one()
    batch.cancel_one()
    assert all(isinstance(result, RunCancelledError) for result in batch.run())
    assert not model.begun


def test_blocks_of_cancelled_rows_are_not_computed(models):
    model = Gated(models["plain"])
    model.gate.set()
    job = rows_job(model, numbers_of(1, 4), 1)
    job.cancel_one()  # before its thread has begun
    (error,) = job.make_batch(()).run()
    assert isinstance(error, RunCancelledError)
    assert not model.begun


# ---------------------------------------------------------------- memory


def test_arrays_are_not_copied_before_the_run(models):
    numbers = {
        "query": np.zeros((64, 4, 8), np.float64),
        "key": np.zeros((64, 2048, 8), np.float16),
        "value": np.zeros((64, 2048, 8), np.float16),
    }
    lengths = tuple(range(64))
    call_of(numbers)
    attend_job(models["plain"], numbers, kv_lengths=lengths).make_batch(())  # imports are done
    tracemalloc.start()
    try:
        attend_job(models["plain"], numbers, kv_lengths=lengths).make_batch(())
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert numbers["key"].nbytes > 2e6
    assert peak < 1e5


HELD = (AttentionInputs, AttentionOutputs, CancellableRun, AttentionRun, FakeRequest)


@pytest.mark.parametrize("form", ["output", "top keys"])
@pytest.mark.parametrize(
    ("what", "runs_inline"),
    [
        ("numbers", False),
        ("numbers", True),
        ("cancelled", False),
        ("memory", False),
        ("memory", True),
    ],
)
def test_a_failed_job_leaves_no_cycle_that_holds_its_request(variants, what, runs_inline, form):
    """Errors are returned as values. Cycles through their frames would hold the request."""
    model = variants["mha"]
    if what == "memory":
        model = Failing(model, MemoryError())

    def refused():
        numbers = [numbers_for(model.config, 2, seed) for seed in range(2)]
        if what == "numbers":
            for own in numbers:
                own["query"][0] = np.nan
        jobs = [shared_job(model, own, **FORMS[form]) for own in numbers]
        for job in jobs:
            job.runs_inline = runs_inline
        batch = jobs[0].make_batch(jobs[1:])
        if what == "cancelled":
            batch.cancel_one()
            batch.cancel_one()
        results = batch.run()  # as the frame of a worker thread holds them
        return len(results)

    gc.collect()
    gc.disable()
    try:
        gc.set_debug(gc.DEBUG_SAVEALL)
        assert refused() == 2
        gc.collect()
        kept = [type(each).__name__ for each in gc.garbage if isinstance(each, HELD)]
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()
    assert kept == []
