"""Small calls on arrays that stay in place: their responses are those of calls run as jobs."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest
from loads import load_repository, reload

from polyhead.v1 import attention_pb2 as pb
from polyhead.wire.tensors import to_tensor
from polyhead_server.deadline import Deadline
from polyhead_server.engine.model import BoundRun, Model
from polyhead_server.errors import InvalidRequestError, ModelNotFoundError, OverloadedError
from polyhead_server.inference import grpc_inference_pb2 as oip
from polyhead_server.rpc.call_context import CallContext
from polyhead_server.scheduling.scheduler import Scheduler
from polyhead_server.services.attention.service import AttentionService
from polyhead_server.services.oip.service import InferenceService
from polyhead_server.settings import ServerSettings

QUERY = np.random.default_rng(0).standard_normal((1, 3, 8), np.float32)
KEY = np.random.default_rng(1).standard_normal((1, 4, 8), np.float32)


class CountingScheduler(Scheduler):
    """A scheduler that counts the jobs that it is given."""

    num_jobs = 0

    async def run(self, job, origin):
        self.num_jobs += 1
        return await super().run(job, origin)


class Asker:
    """Calls a service, of either protocol, in this process."""

    def __init__(self, repository, **settings):
        self.scheduler = CountingScheduler(1, 8, settings.pop("max_queue_bytes", 1 << 20))
        parts = repository, self.scheduler, ServerSettings(**settings), asyncio.Event()
        self.attention = AttentionService(*parts)
        self.inference = InferenceService(*parts, loads=None, on_disk=None)
        self.context = None

    @property
    def num_jobs(self):
        return self.scheduler.num_jobs

    def __call__(self, query=QUERY, **fields):
        return self.raw(message(query, **fields))

    def raw(self, data):
        self.context = CallContext("Attend", Deadline(None))
        try:
            response = asyncio.run(self.attention.attend(data, self.context))
        finally:
            self.context.release()
        return pb.AttendResponse.FromString(response)

    def infer(self, query=QUERY, request_id=""):
        request = oip.ModelInferRequest(
            model_name="plain", id=request_id, raw_input_contents=[query.tobytes()]
        )
        request.inputs.add(name="query", datatype="FP32", shape=query.shape)
        for name in ("attn_weights", "output"):
            request.outputs.add(name=name)
        self.context = CallContext("ModelInfer", Deadline(None))
        data = asyncio.run(self.inference.model_infer(request.SerializeToString(), self.context))
        self.context.release()
        return oip.ModelInferResponse.FromString(data)


@pytest.fixture
def ask(repository):
    return Asker(repository)


def message(query=QUERY, **fields):
    given = {"model": "plain", "query": to_tensor(query)} | fields
    return pb.AttendRequest(**given).SerializeToString()


def without_times(response):
    """Return what two responses to equal calls have in common, bit for bit."""
    execution = response.execution
    assert all(0.0 <= each < 1e4 for each in (execution.queue_ms, execution.compute_ms))
    execution.queue_ms = execution.compute_ms = 0.0
    response.request_id = ""
    return response


BOUND = {
    "output": {},
    "weights": {"attn_weights": {}},
    "float32 by name": {"attn_weights": {"dtype": 1}, "output_dtype": pb.DATA_TYPE_FLOAT},
    "version": {"model_version": 1},
    "batch": {"query": np.concatenate([QUERY, 2 * QUERY]), "attn_weights": {}},
    "64 tokens": {"query": np.ones((1, 64, 8), np.float32)},
    "key": {"key": to_tensor(KEY), "attn_weights": {}},
    "key and value": {"key": to_tensor(KEY), "value": to_tensor(-KEY)},
}


@pytest.mark.parametrize("fields", BOUND.values(), ids=BOUND)
def test_calls_after_the_second_are_no_jobs_and_have_the_same_response(ask, fields):
    fields = {"query": QUERY} | fields
    first, second = ask(**fields), ask(**fields)
    assert ask.num_jobs == 1
    assert without_times(second) == without_times(first)
    other = fields | {"query": -3 * fields["query"]}
    expected = without_times(ask(**other, request_id="as a job"))
    assert ask.num_jobs == 2
    assert without_times(ask(**other)) == expected
    assert ask.num_jobs == 2


def test_model_infer_is_bound_too(ask):
    first, second = ask.infer(), ask.infer()
    assert (ask.num_jobs, second) == (1, first)
    expected = ask.infer(2 * QUERY, request_id="as a job")
    expected.id = ""
    assert ask.infer(2 * QUERY) == expected
    assert ask.num_jobs == 2


NOT_BOUND = {
    "id": {"request_id": "a"},
    "float16": {"query": QUERY.astype(np.float16)},
    "float64": {"query": QUERY.astype(np.float64)},
    "key of float64": {"key": to_tensor(KEY.astype(np.float64))},
    "output dtype": {"output_dtype": pb.DATA_TYPE_FLOAT16},
    "weights dtype": {"attn_weights": {"dtype": pb.DATA_TYPE_FLOAT16}},
    "lengths": {"kv_lengths": [2]},
    "mask": {"attn_mask": to_tensor(np.ones(3, bool))},
    "selection": {"attn_weights": {"top_k": 1}},
    "no output": {"attn_weights": {}, "omit_output": True},
    "rotary": {"model": "rotary"},
}


@pytest.mark.parametrize("fields", NOT_BOUND.values(), ids=NOT_BOUND)
def test_all_other_calls_are_jobs(ask, fields):
    responses = [ask(**fields) for _ in range(3)]
    assert ask.num_jobs == 3
    assert without_times(responses[0]) == without_times(responses[2])


def test_nan_and_infinity_are_refused(ask):
    ask(), ask()
    wrong = QUERY.copy()
    for number in (np.nan, np.inf, -np.inf):
        wrong[0, 1, 2] = number
        with pytest.raises(InvalidRequestError) as caught:
            ask(wrong)
        assert (caught.value.field, caught.value.reason) == ("query.data", "NON_FINITE")
    assert ask.num_jobs == 4
    ask(np.full_like(QUERY, 1e30))  # finite, though its square is not
    ask()
    assert ask.num_jobs == 4


def test_no_call_is_bound_where_non_finite_values_are_allowed(repository):
    ask = Asker(repository, allow_non_finite=True)
    ask(), ask(), ask()
    assert ask.num_jobs == 3


def test_a_model_that_was_replaced_or_is_gone_is_not_used(ask, repository, folder, engine):
    first = ask()
    ask()
    load_repository(folder, engine, repository=repository)
    assert without_times(ask()) == without_times(first)
    assert ask.num_jobs == 2
    for part in ("plain/1/model.onnx", "plain/1", "plain"):
        path = folder / part
        path.unlink() if path.is_file() else path.rmdir()
    reload(repository, folder, engine)
    with pytest.raises(ModelNotFoundError):
        ask()


def test_bound_calls_are_counted_and_logged(ask, repository):
    for _ in range(3):
        ask()
    totals = repository.get("plain", 0).statistics.totals()
    assert (totals.inference_count, totals.execution_count, totals.success.count) == (3, 3, 3)
    assert ask.context.request.log_fields() == {"request_id": "", "model": "plain"}


def test_a_run_that_fails_is_reported_and_counted_once(ask, repository, monkeypatch):
    ask(), ask()

    def fail(*_, **__):
        raise RuntimeError("broken")

    with monkeypatch.context() as patch:
        patch.setattr(BoundRun, "__call__", fail)
        patch.setattr(Model, "run_graph", fail)
        with pytest.raises(RuntimeError, match="broken"):
            ask()
    assert repository.get("plain", 0).statistics.totals().fail.count == 1
    ask()
    assert ask.num_jobs == 2


def test_a_template_that_cannot_be_bound_is_run_as_jobs(ask, monkeypatch):
    def fail(*_):
        raise MemoryError

    monkeypatch.setattr(Model, "bind", fail)
    for _ in range(3):
        assert ask().output.shape == list(QUERY.shape)
    assert ask.num_jobs == 3


def test_a_response_does_not_change_when_its_arrays_are_used_again(ask):
    ask(attn_weights={})
    responses = [ask(factor * QUERY, attn_weights={}) for factor in (1, 2, 3)]
    for factor, response in zip((1, 2, 3), responses, strict=True):
        again = ask(factor * QUERY, attn_weights={}, request_id="as a job")
        assert without_times(response) == without_times(again)


def test_a_full_server_refuses_bound_calls_as_all_others(repository):
    ask = Asker(repository, max_queue_bytes=len(message()) + QUERY.nbytes + 1000)
    ask(), ask()
    with ask.scheduler.reserve_bytes(1001), pytest.raises(OverloadedError):
        ask()
    ask()
    assert ask.num_jobs == 1
