"""What was found out about one request holds for the next of its template, and for no other."""

from __future__ import annotations

import numpy as np
import pytest
from loads import load_model, load_repository, reload

from polyhead.v1 import attention_pb2 as pb
from polyhead.wire.tensors import to_tensor
from polyhead_server.codec.message_format import ATTEND, ATTEND_ROWS, STREAM_ID, STREAMED
from polyhead_server.codec.request import AttendRequest, StreamedRequests
from polyhead_server.engine import cost
from polyhead_server.errors import (
    InvalidRequestError,
    ModelNotFoundError,
    ModelUnavailableError,
)
from polyhead_server.planning.plan_cache import PlanCache
from polyhead_server.services.attention.prepare import CallPreparer
from polyhead_server.settings import ServerSettings


class Plans:
    """A plan cache of each method, and the values of its templates."""

    def __init__(self, repository):
        preparer = CallPreparer(repository, ServerSettings())
        self._attend = PlanCache(ATTEND, preparer.attend, repository)
        self._rows = PlanCache(ATTEND_ROWS, preparer.attend_rows, repository)
        self._streamed = PlanCache(STREAMED, preparer.streamed, repository)
        self._repository = repository
        self.log_fields = {}

    def attend(self, message):
        self.log_fields = {}
        return self._attend.match(message.SerializeToString(), log_fields=self.log_fields)

    def rows(self, message, rows_per_block=0):
        request = pb.AttendRowsRequest(call=message, rows_per_block=rows_per_block)
        return self._rows.match(request.SerializeToString(), log_fields={})

    def streamed(self, message, number=7, timeout_us=5):
        request = pb.StreamedRequest(id=number, timeout_us=timeout_us, call=message)
        data = pb.AttendStreamRequest(requests=[request]).SerializeToString()
        return self._streamed.match(data, log_fields={})

    def plan(self, message):
        return self.attend(message).value


@pytest.fixture
def plans(repository):
    return Plans(repository)


def message(number=1.0, **fields):
    query = to_tensor(np.full((1, 3, 8), number, np.float32))
    return pb.AttendRequest(**({"model": "plain", "query": query} | fields))


def test_numbers_and_ids_of_one_size_do_not_matter(plans):
    first = plans.attend(message(1.0, request_id="a"))
    second = plans.attend(message(2.0, request_id="b"))
    assert second.value is first.value
    requests = [AttendRequest(match, match.value.call) for match in (first, second)]
    assert [request.request_id for request in requests] == ["a", "b"]
    for request, number in zip(requests, (1.0, 2.0), strict=True):
        np.testing.assert_array_equal(request.arrays()["query"], np.full((1, 3, 8), number))


def test_ids_of_other_sizes_are_templates_of_their_own(plans):
    matches = [plans.attend(message(request_id="x" * size)) for size in (0, 1, 2, 256)]
    assert len({id(match.value) for match in matches}) == 4
    for size, match in zip((0, 1, 2, 256), matches, strict=True):
        again = plans.attend(message(request_id="y" * size))
        assert again.value is match.value
        assert AttendRequest(again, again.value.call).request_id == "y" * size


def test_requests_of_a_stream_share_a_template_whatever_their_numbers_and_timeouts(plans):
    first = plans.streamed(message(1.0), 7, 300)
    second = plans.streamed(message(2.0), 100, 16_000)
    assert second.value is first.value
    ids = [match.payload(STREAM_ID) for match in (first, second)]
    assert ids == [b"\x07", b"\x64"]
    request = StreamedRequests(second, second.value.call, [ids[1]])
    np.testing.assert_array_equal(request.arrays()["query"], np.full((1, 3, 8), 2.0))
    # as wide as the number is a template of its own
    assert plans.streamed(message(3.0), 300, 300).payload(STREAM_ID) == b"\xac\x02"


def test_rows_per_block_are_part_of_the_template(plans):
    for rows_per_block in (0, 1, 2, 0, 1, 2):
        _, plan = plans.rows(message(), rows_per_block).value
        assert plan.rows_per_block == (rows_per_block or 3)


OTHERS = {
    "model": {"model": "rotary"},
    "version": {"model_version": 1},
    "shape": {"query": to_tensor(np.ones((1, 4, 8), np.float32))},
    "batch": {"query": to_tensor(np.ones((2, 3, 8), np.float32))},
    "dtype": {"query": to_tensor(np.ones((1, 3, 8), np.float16))},
    "key": {"key": to_tensor(np.ones((1, 3, 8), np.float32))},
    "mask": {"attn_mask": to_tensor(np.ones(3, bool))},
    "lengths": {"kv_lengths": [2]},
    "weights": {"attn_weights": {}},
    "selection": {"attn_weights": {"top_k": 1}},
    "output dtype": {"output_dtype": pb.DATA_TYPE_DOUBLE},
    "no output": {"attn_weights": {}, "omit_output": True},
}


def test_a_request_that_differs_in_anything_else_is_of_another_template(plans):
    plan = plans.plan(message())
    others = [plans.plan(message(**fields)) for fields in OTHERS.values()]
    assert len({id(each) for each in (plan, *others)}) == 1 + len(OTHERS)
    for fields, other in zip(OTHERS.values(), others, strict=True):
        assert plans.plan(message(**fields)) is other


@pytest.mark.parametrize("size", [0, 95, 97, 1000])
def test_a_wrong_number_of_bytes_is_refused_where_the_right_one_is_known(plans, size):
    plans.attend(message())
    wrong = message()
    wrong.query.data = bytes(size)
    with pytest.raises(InvalidRequestError) as caught:
        plans.attend(wrong)
    assert (caught.value.field, caught.value.reason) == ("query.data", "BYTE_SIZE_MISMATCH")


def test_a_request_that_was_refused_is_refused_again(plans):
    for _ in range(2):
        with pytest.raises(InvalidRequestError) as caught:
            plans.attend(message(kv_lengths=[4]))
        assert caught.value.field == "kv_lengths[0]"
        with pytest.raises(ModelNotFoundError):
            plans.attend(message(model="missing"))


def test_the_log_has_the_id_and_the_model_of_a_request_that_is_refused(plans):
    with pytest.raises(ModelNotFoundError):
        plans.attend(message(model="missing", request_id="r"))
    assert plans.log_fields == {"request_id": "r", "model": "missing"}


def test_an_id_that_is_no_text_is_malformed_where_the_template_is_known_too(plans):
    plans.attend(message(request_id="ab"))
    raw = message(request_id="ab").SerializeToString().replace(b"ab", b"\xff\xff")
    match = plans._attend.match(raw, log_fields={})
    with pytest.raises(InvalidRequestError) as caught:
        AttendRequest(match, match.value.call)
    assert (caught.value.field, caught.value.reason) == ("request", "MALFORMED")
    with pytest.raises(InvalidRequestError) as unknown:
        Plans(plans._repository)._attend.match(raw, log_fields={})
    assert str(caught.value) == str(unknown.value)


def test_a_model_that_was_replaced_is_not_used(plans, repository, folder, engine):
    before = [plans.attend(message()).value.model, plans.streamed(message()).value.model]
    before.append(plans.rows(message()).value[0])
    load_repository(folder, engine, repository=repository)
    new = repository.get("plain", 0)
    assert plans.attend(message()).value.model is new
    assert plans.streamed(message()).value.model is new
    assert plans.rows(message()).value[0] is new
    assert new not in before


def test_a_model_that_is_gone_is_not_used(plans, repository, folder, engine):
    plans.attend(message())
    for part in ("plain/1/model.onnx", "plain/1", "plain"):
        path = folder / part
        path.unlink() if path.is_file() else path.rmdir()
    reload(repository, folder, engine)
    with pytest.raises(ModelNotFoundError):
        plans.attend(message())


def test_unloading_and_loading_a_model_forgets_plans(plans, repository, folder, engine):
    before = plans.attend(message()).value
    other = plans.attend(message(model="other")).value
    repository.unload("plain")
    with pytest.raises(ModelUnavailableError):
        plans.attend(message())
    assert plans.attend(message(model="other")).value.model is other.model
    load_model(repository, folder, "plain", engine)
    after = plans.attend(message()).value
    assert after is not before
    assert after.model is repository.get("plain", 0)
    assert plans.attend(message()).value is after


def test_requests_with_long_lists_are_planned_each_time(plans):
    sequences = to_tensor(np.ones((5000, 1, 8), np.float32))
    for empty in (7, 4999, 7):
        lengths = [1] * 5000
        lengths[empty] = 0
        plan = plans.plan(message(query=sequences, kv_lengths=lengths)).plan
        assert plan.kv_lengths.tolist() == lengths


def test_a_request_in_an_odd_encoding_has_the_plan_of_its_usual_one(plans):
    usual = plans.attend(message(request_id="a"))
    raw = b"\x1a\x01z" + message(request_id="a").SerializeToString()  # the last id counts
    for _ in range(2):
        match = plans._attend.match(raw, log_fields={})
        assert match.value is usual.value
        assert AttendRequest(match, match.value.call).request_id == "a"


def test_only_small_requests_share_runs(plans):
    limit = cost.Batching.on("CPUExecutionProvider").solo_above_tokens
    for length, gains in ((1, True), (limit, True), (limit + 1, False)):
        query = to_tensor(np.ones((1, length, 8), np.float32))
        assert (plans.plan(message(query=query)).batch_key is not None) == gains
    query = to_tensor(np.ones((limit, 2, 8), np.float32))  # tokens of all sequences count
    assert plans.plan(message(query=query)).batch_key is None


def test_requests_with_one_batch_key_share_runs(plans):
    batch_key = plans.plan(message()).batch_key
    same = ("batch", "dtype", "output dtype", "version")
    for name, fields in OTHERS.items():
        assert (plans.plan(message(**fields)).batch_key == batch_key) == (name in same), name
    for name in ("mask", "lengths"):  # they count sequences
        assert plans.plan(message(**OTHERS[name])).batch_key is None
    narrow = message(attn_weights={"dtype": pb.DATA_TYPE_FLOAT16})
    assert plans.plan(narrow).batch_key == plans.plan(message(attn_weights={})).batch_key
