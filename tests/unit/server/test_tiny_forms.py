"""What is answered in a few steps is answered as on the road of all others, and nothing else is."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from polyhead.v1 import attention_pb2 as pb
from polyhead.wire.tensors import to_tensor
from polyhead_server.deadline import Deadline
from polyhead_server.engine.runtime import BoundRun, Model
from polyhead_server.errors import InvalidRequestError, ModelNotFoundError, OverloadedError
from polyhead_server.rpc.handlers import CallContext
from polyhead_server.scheduling import bound_call as tiny_forms
from polyhead_server.scheduling.scheduler import Scheduler
from polyhead_server.services.attention.service import AttentionService
from polyhead_server.settings import ServerSettings

QUERY = np.random.default_rng(0).standard_normal((1, 3, 8), np.float32)


class Asker:
    """Asks a service for attention, and tells which road the calls went."""

    def __init__(self, repository, **settings):
        self.scheduler = Scheduler(1, 8, settings.pop("max_queue_bytes", 1 << 20))
        self.service = AttentionService(
            repository, self.scheduler, ServerSettings(**settings), asyncio.Event()
        )
        self.others = 0
        attend = self.service._attend

        async def counted(request, context):
            self.others += 1
            return await attend(request, context)

        self.service._attend = counted
        self.context = None

    def raw(self, data):
        self.context = CallContext("Attend", Deadline(None))
        return pb.AttendResponse.FromString(asyncio.run(self.service.attend(data, self.context)))

    def __call__(self, query=QUERY, **fields):
        return self.raw(message(query, **fields))


@pytest.fixture
def ask(repository):
    return Asker(repository)


def message(query=QUERY, **fields):
    given = {"model": "plain", "query": to_tensor(query)} | fields
    return pb.AttendRequest(**given).SerializeToString()


def without_times(reply):
    """What two replies to the same call have in common, bit for bit."""
    times = reply.execution.queue_ms, reply.execution.compute_ms
    assert all(0.0 <= each < 1e4 for each in times)
    reply.execution.queue_ms = reply.execution.compute_ms = 0.0
    reply.request_id = ""
    return reply


ALIKE = {
    "output": {},
    "weights": {"attn_weights": {}},
    "float32 by name": {"attn_weights": {"dtype": 1}, "output_dtype": pb.DATA_TYPE_FLOAT},
    "version": {"model_version": 1},
    "batch": {"query": np.concatenate([QUERY, 2 * QUERY]), "attn_weights": {}},
    "64 tokens": {"query": np.ones((1, 64, 8), np.float32)},
}


@pytest.mark.parametrize("fields", ALIKE.values(), ids=ALIKE)
def test_the_next_of_a_form_is_answered_so_and_alike(ask, fields):
    fields = {"query": QUERY} | fields
    first = ask(**fields)
    assert ask.others == 1
    other = fields | {"query": -3 * fields["query"]}
    again, answered = ask(**fields), ask(**other)
    assert ask.others == 1
    assert without_times(again) == without_times(first)
    assert without_times(answered) == without_times(ask(**other, request_id="on the other road"))
    assert ask.others == 2


OTHERS = {
    "id": {"request_id": "a"},
    "float16": {"query": QUERY.astype(np.float16)},
    "float64": {"query": QUERY.astype(np.float64)},
    "output dtype": {"output_dtype": pb.DATA_TYPE_FLOAT16},
    "weights dtype": {"attn_weights": {"dtype": pb.DATA_TYPE_FLOAT16}},
    "key": {"key": to_tensor(QUERY)},
    "lengths": {"kv_lengths": [2]},
    "mask": {"attn_mask": to_tensor(np.ones(3, bool))},
    "selection": {"attn_weights": {"top_k": 1}},
    "no output": {"attn_weights": {}, "omit_output": True},
    "rotary": {"model": "rotary"},
    "65 tokens": {"query": np.ones((1, 65, 8), np.float32)},
}


@pytest.mark.parametrize("fields", OTHERS.values(), ids=OTHERS)
def test_all_others_go_the_road_of_all(ask, fields):
    first, second = ask(**fields), ask(**fields)
    assert ask.others == 2
    assert without_times(first) == without_times(second)


def test_numbers_that_are_none_are_refused_as_ever(ask):
    ask()
    wrong = QUERY.copy()
    for number in (np.nan, np.inf, -np.inf):
        wrong[0, 1, 2] = number
        with pytest.raises(InvalidRequestError) as caught:
            ask(wrong)
        assert (caught.value.field, caught.value.reason) == ("query.data", "NON_FINITE")
    assert ask.others == 4
    ask(np.full_like(QUERY, 1e30))  # finite, but for its square
    ask()
    assert ask.others == 4


def test_where_all_numbers_are_allowed_none_are_answered_so(repository):
    ask = Asker(repository, allow_non_finite=True)
    ask(), ask()
    assert ask.others == 2


def test_several_of_one_length(ask):
    """More than are kept of one length, in turns."""
    calls = [{}, {"model": "other"}, {"model_version": 1}, {"output_dtype": 1}]
    calls += [{"model_version": 1, "model": "other"}, {"model": "other", "output_dtype": 1}]
    expected = [without_times(ask(**fields, request_id="a")) for fields in calls]
    for _ in range(3):
        for fields, reply in zip(calls, expected, strict=True):
            assert without_times(ask(**fields)) == reply


def test_only_so_many_are_kept_and_none_that_are_long(ask, monkeypatch):
    monkeypatch.setattr(tiny_forms, "_MAX_BYTES", 2 * tiny_forms._FORM_BYTES)
    for length in range(1, 6):
        ask(np.ones((1, length, 8), np.float32))
    known = ask.service._tiny_forms._known
    assert len(known) == 2
    monkeypatch.undo()
    unknown = b"\xfa\x07" + (5000 & 0x7F | 0x80).to_bytes(1) + (5000 >> 7).to_bytes(1) + bytes(5000)
    assert ask.raw(message() + unknown).output.shape == list(QUERY.shape)
    assert len(known) == 2


def test_a_model_that_was_replaced_or_is_gone_is_not_used(ask, repository, folder, engine):
    first = ask()
    repository.load(folder, engine, all_versions=False)
    assert without_times(ask()) == without_times(first)
    assert ask.others == 2
    for part in ("plain/1/model.onnx", "plain/1", "plain"):
        path = folder / part
        path.unlink() if path.is_file() else path.rmdir()
    repository.load(folder, engine, all_versions=False)
    with pytest.raises(ModelNotFoundError):
        ask()


def test_it_is_counted_and_told_in_the_log(ask, repository):
    for _ in range(3):
        ask()
    totals = repository.get("plain", 0).statistics.totals()
    assert (totals.inference_count, totals.execution_count, totals.success.count) == (3, 3, 3)
    assert ask.context.request.log_fields() == {"request_id": "", "model": "plain"}


def test_a_run_that_fails_is_told_and_counted_as_ever(ask, repository, monkeypatch):
    ask()

    def fail(*_, **__):
        raise RuntimeError("broken")

    with monkeypatch.context() as patch:
        patch.setattr(BoundRun, "__call__", fail)
        patch.setattr(Model, "run_compact", fail)
        with pytest.raises(RuntimeError, match="broken"):
            ask()
    assert repository.get("plain", 0).statistics.totals().fail.count == 1
    ask()
    assert ask.others == 2


def test_a_reply_that_was_given_stays_as_it_is(ask):
    """What runs write to is used again."""
    ask(attn_weights={})
    replies = [ask(factor * QUERY, attn_weights={}) for factor in (1, 2, 3)]
    for factor, reply in zip((1, 2, 3), replies, strict=True):
        again = ask(factor * QUERY, attn_weights={}, request_id="on the other road")
        assert without_times(reply) == without_times(again)


def test_a_call_has_its_answer_though_its_form_cannot_be_made(ask, monkeypatch):
    def fail(*_):
        raise MemoryError

    monkeypatch.setattr(tiny_forms, "struct_beside", fail)
    assert ask().output.shape == list(QUERY.shape)
    assert ask().output.shape == list(QUERY.shape)
    assert ask.others == 2


def test_they_are_answered_by_a_server_that_is_full(repository):
    ask = Asker(repository, max_queue_bytes=len(message()) + 100)
    ask()
    with ask.scheduler.reserve_bytes(101):
        ask()
        with pytest.raises(OverloadedError):
            ask(request_id="on the other road")
    assert ask.others == 2
