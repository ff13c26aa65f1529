"""What was found out about one request holds for the next of its form, and for no other."""

from __future__ import annotations

import numpy as np
import pytest

from polyhead.v1 import attention_pb2 as pb
from polyhead.wire.tensors import to_tensor
from polyhead_server.codec.request import AttendRequest, StreamedRequest
from polyhead_server.engine import cost
from polyhead_server.errors import InvalidRequestError, ModelNotFoundError
from polyhead_server.planning import plan_cache as forms
from polyhead_server.planning.plan_cache import Forms
from polyhead_server.services.attention.stream_messages import read_stream_message
from polyhead_server.settings import ServerSettings


@pytest.fixture
def known(repository):
    return Forms(repository, ServerSettings())


def message(number=1.0, **fields):
    query = to_tensor(np.full((1, 3, 8), number, np.float32))
    return pb.AttendRequest(**({"model": "plain", "query": query} | fields))


def attend(given):
    return AttendRequest(given.SerializeToString())


def streamed(given):
    requests = [pb.StreamedRequest(id=7, timeout_us=5, call=given)]
    read = read_stream_message(pb.AttendStreamRequest(requests=requests).SerializeToString())
    return StreamedRequest(read.runs[0].place(0), read.data)


def test_numbers_and_ids_do_not_matter(known):
    first, second = attend(message(1.0, request_id="a")), attend(message(2.0))
    form = known.of(first)
    assert known.of(second) is form
    assert known.of(streamed(message(3.0, request_id="c"))) is form
    assert second.call is first.call
    assert (first.request_id, second.request_id) == ("a", "")
    for request, number in ((first, 1.0), (second, 2.0)):
        np.testing.assert_array_equal(request.arrays()["query"], np.full((1, 3, 8), number))


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


def test_whatever_else_differs_is_another_form(known):
    form = known.of(attend(message()))
    others = [known.of(attend(message(**fields))) for fields in OTHERS.values()]
    assert len({id(each) for each in (form, *others)}) == 1 + len(OTHERS)
    for fields, other in zip(OTHERS.values(), others, strict=True):
        assert known.of(attend(message(**fields))) is other


@pytest.mark.parametrize("size", [0, 95, 97, 1000])
def test_a_wrong_number_of_bytes_is_refused_of_a_form_that_is_known_too(known, size):
    known.of(attend(message()))
    wrong = message()
    wrong.query.data = bytes(size)
    with pytest.raises(InvalidRequestError) as caught:
        known.of(attend(wrong))
    assert (caught.value.field, caught.value.reason) == ("query.data", "BYTE_SIZE_MISMATCH")


def test_a_form_that_was_refused_is_refused_again(known):
    for _ in range(2):
        with pytest.raises(InvalidRequestError) as caught:
            known.of(attend(message(kv_lengths=[4])))
        assert caught.value.field == "kv_lengths[0]"
        with pytest.raises(ModelNotFoundError):
            known.of(attend(message(model="missing")))


def test_a_form_of_a_model_that_was_replaced_is_not_used(known, repository, folder, engine):
    before = known.of(attend(message()))
    repository.load(folder, engine, all_versions=False)
    after = known.of(attend(message()))
    assert after is not before
    assert after.model is repository.get("plain", 0)
    assert after.model is not before.model


def test_a_form_of_a_model_that_is_gone_is_not_used(known, repository, folder, engine):
    known.of(attend(message()))
    for part in ("plain/1/model.onnx", "plain/1", "plain"):
        path = folder / part
        path.unlink() if path.is_file() else path.rmdir()
    repository.load(folder, engine, all_versions=False)
    with pytest.raises(ModelNotFoundError):
        known.of(attend(message()))


def test_only_so_many_are_kept_and_none_of_great_length(known, monkeypatch):
    monkeypatch.setattr(forms, "_MAX_FORMS", 3)
    first = known.of(attend(message()))
    for length in range(4, 9):
        known.of(attend(message(query=to_tensor(np.ones((1, length, 8), np.float32)))))
    assert len(known._known) == 3
    assert known.of(attend(message())) is not first  # the oldest went
    kept = set(known._known)
    sequences = to_tensor(np.ones((5000, 1, 8), np.float32))
    long = message(query=sequences, kv_lengths=[1] * 4999 + [0])
    for _ in range(2):
        assert known.of(attend(long)).plan.kv_lengths.sum() == 4999
    assert set(known._known) == kept


def test_only_small_requests_have_company(known):
    limit = cost.Batching.on("CPUExecutionProvider").solo_above_tokens
    for length, gains in ((1, True), (limit, True), (limit + 1, False)):
        query = to_tensor(np.ones((1, length, 8), np.float32))
        assert (known.of(attend(message(query=query))).batch_key is not None) == gains
    query = to_tensor(np.ones((limit, 2, 8), np.float32))  # tokens of all sequences count
    assert known.of(attend(message(query=query))).batch_key is None


def test_what_shares_runs_and_what_does_not(known):
    batch_key = known.of(attend(message())).batch_key
    same = ("batch", "dtype", "output dtype", "version")
    for name, fields in OTHERS.items():
        assert (known.of(attend(message(**fields))).batch_key == batch_key) == (name in same), name
    for name in ("mask", "lengths"):  # they count sequences
        assert known.of(attend(message(**OTHERS[name]))).batch_key is None
    narrow = message(attn_weights={"dtype": pb.DATA_TYPE_FLOAT16})
    assert (
        known.of(attend(narrow)).batch_key == known.of(attend(message(attn_weights={}))).batch_key
    )
