"""Of ModelInfer as of Attend: what is answered in a few steps is answered as ever."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from polyhead_server.deadline import Deadline
from polyhead_server.errors import InvalidRequestError
from polyhead_server.inference import grpc_inference_pb2 as pb
from polyhead_server.rpc.handlers import CallContext
from polyhead_server.scheduling.scheduler import Scheduler
from polyhead_server.services.oip.service import InferenceService
from polyhead_server.settings import ServerSettings

QUERY = np.random.default_rng(0).standard_normal((1, 3, 8), np.float32)


class Asker:
    """Asks a service to infer, and tells which road the calls went."""

    def __init__(self, repository):
        scheduler, draining = Scheduler(1, 8, 1 << 20), asyncio.Event()
        self.service = InferenceService(
            repository, scheduler, ServerSettings(), draining, repository.load
        )
        self.others = 0
        infer = self.service._infer

        async def counted(request, context):
            self.others += 1
            return await infer(request, context)

        self.service._infer = counted
        self.context = None

    def __call__(self, query=QUERY, **wishes):
        self.context = CallContext("ModelInfer", Deadline(None))
        data = message(query, **wishes).SerializeToString()
        return asyncio.run(self.service.model_infer(data, self.context))


@pytest.fixture
def ask(repository):
    return Asker(repository)


def message(query=QUERY, *, outputs=(), inputs=None, typed=False, **fields):
    inputs = {"query": query} | (inputs or {})
    names = {"float32": "FP32", "float16": "FP16", "float64": "FP64", "int32": "INT32"}
    request = pb.ModelInferRequest(model_name="plain")
    request.MergeFrom(pb.ModelInferRequest(**fields))
    for name, array in inputs.items():
        given = request.inputs.add(name=name, datatype=names[array.dtype.name], shape=array.shape)
        if typed:
            given.contents.fp32_contents.extend(array.ravel().tolist())
        else:
            request.raw_input_contents.append(array.tobytes())
    for name in outputs:
        request.outputs.add(name=name)
    return request


ALIKE = {
    "output": {},
    "weights": {"outputs": ("output", "attn_weights")},
    "weights first": {"outputs": ("attn_weights", "output")},
    "version": {"model_version": "1"},
    "batch": {"query": np.concatenate([QUERY, 2 * QUERY]), "outputs": ("output", "attn_weights")},
    "64 tokens": {"query": np.ones((1, 64, 8), np.float32)},
    "an output named": {"outputs": ("output",)},
}


@pytest.mark.parametrize("wishes", ALIKE.values(), ids=ALIKE)
def test_the_next_of_a_form_is_answered_so_and_alike(ask, wishes):
    wishes = {"query": QUERY} | wishes
    first = ask(**wishes)
    assert ask.others == 1
    other = wishes | {"query": -3 * wishes["query"]}
    again, answered = ask(**wishes), ask(**other)
    assert ask.others == 1
    assert again == first
    response = pb.ModelInferResponse.FromString(ask(**other, id="on the other road"))
    assert ask.others == 2
    assert response.id
    response.id = ""
    assert pb.ModelInferResponse.FromString(answered) == response
    outputs = [output.name for output in response.outputs]
    assert outputs == [*wishes.get("outputs", ("output",))]
    assert len(response.raw_output_contents) == len(outputs)


OTHERS = {
    "id": {"id": "a"},
    "float16": {"query": QUERY.astype(np.float16)},
    "float64": {"query": QUERY.astype(np.float64)},
    "typed": {"typed": True},
    "key": {"inputs": {"key": QUERY}},
    "lengths": {"inputs": {"kv_lengths": np.array([2], np.int32)}},
    "timeout": {"parameters": {"timeout": pb.InferParameter(int64_param=60_000_000)}},
    "selection": {
        "outputs": ("output", "attn_weights", "top_keys"),
        "parameters": {"top_k": pb.InferParameter(int64_param=1)},
    },
    "weights alone": {"outputs": ("attn_weights",)},
    "rotary": {"model_name": "rotary"},
    "65 tokens": {"query": np.ones((1, 65, 8), np.float32)},
}


@pytest.mark.parametrize("wishes", OTHERS.values(), ids=OTHERS)
def test_all_others_go_the_road_of_all(ask, wishes):
    first, second = ask(**wishes), ask(**wishes)
    assert ask.others == 2
    assert first == second


def test_numbers_that_are_none_are_refused_as_ever(ask):
    ask()
    wrong = QUERY.copy()
    wrong[0, 1, 2] = np.nan
    with pytest.raises(InvalidRequestError) as caught:
        ask(wrong)
    assert caught.value.reason == "NON_FINITE"
    assert ask.others == 2


def test_it_is_counted_and_told_in_the_log(ask, repository):
    for _ in range(3):
        ask()
    assert ask.others == 1
    totals = repository.get("plain", 0).statistics.totals()
    assert (totals.inference_count, totals.execution_count, totals.success.count) == (3, 3, 3)
    assert ask.context.request.log_fields() == {"request_id": "", "model": "plain"}
