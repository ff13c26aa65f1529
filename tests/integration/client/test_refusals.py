"""A fault is refused with the same error by the client and by the server.

Each check of the client is tested twice: with its arguments, and with a request that holds the same
fault and is sent unchecked. Faults that no request can hold, such as a ragged list or a head of
1.5, are left to the unit tests.
"""

from __future__ import annotations

import numpy as np
import pytest
from raw_calls import embeddings, open_channel, refused, refused_stream, tensor

from polyhead import InvalidArgumentError, Weights
from polyhead._calls.request import prepare_call
from polyhead.v1 import attention_pb2 as pb
from polyhead.wire.tensors import to_tensor

QUERY = embeddings(2, 3, 16)
GOOD = {"query": QUERY, "model": "rotary"}  # the model takes positions
INTEGERS = QUERY.astype(np.int32)
TOO_LONG = "é" * 129


def array(name, value, **more):
    """Return an array as an argument and as the field of a request."""
    given = {"key": QUERY, **more} if name == "value" else more
    return {**given, name: value}, {
        key: to_tensor(np.asarray(item)) for key, item in {**given, name: value}.items()
    }


def empty(name, *shape, data=b""):
    """Return an array with an empty axis, which no tensor may have."""
    return {name: np.zeros(shape, np.float32)}, {name: tensor(shape, data)}


def weights(**selection):
    return {"need_weights": Weights(**selection)}, {
        "attn_weights": pb.AttnWeightsSelection(**selection)
    }


def same(**fields):
    return fields, fields


SENT = {
    "no batch axis": array("query", QUERY[0]),
    "too many axes": array("query", QUERY[None, None]),
    "more axes than any tensor": empty("query", *[1] * 9, data=bytes(4)),
    "no axes": empty("query", data=bytes(4)),
    "no tokens": empty("query", 2, 0, 16),
    "integers": array("query", INTEGERS),
    "bools": array("query", QUERY > 0),
    "key without batch axis": array("key", QUERY[0]),
    "key with heads": array("key", QUERY[:, None]),
    "key of another batch": array("key", QUERY[:1]),
    "key of integers": array("key", INTEGERS),
    "no keys": empty("key", 2, 0, 16),
    "value without key": ({"value": QUERY}, {"value": to_tensor(QUERY)}),
    "value with heads": array("value", QUERY[:, None]),
    "value of another batch": array("value", QUERY[:1]),
    "value of another length": array("value", QUERY[:, 1:]),
    "value of bools": array("value", QUERY > 0),
    "mask of integers": array("attn_mask", np.ones((3, 3), np.int32)),
    "mask transposed": array("attn_mask", np.ones((5, 3), bool), key=embeddings(2, 5, 16)),
    "mask of another batch": array("attn_mask", np.ones((3, 1, 3, 3), bool)),
    "mask of 5 axes": array("attn_mask", np.ones((1,) * 5, bool)),
    "mask of no heads": empty("attn_mask", 0, 3, 3),
    "mask of no axes": empty("attn_mask", data=bytes(4)),
    "lengths missing": same(kv_lengths=[3]),
    "length negative": same(kv_lengths=[3, -1]),
    "length beyond": same(kv_lengths=[4, 1]),
    "positions of float": array("positions", np.arange(3.0)),
    "positions of bool": array("positions", np.ones(3, bool)),
    "positions missing": array("positions", np.arange(2)),
    "positions of one of two": array("positions", np.zeros((1, 3), np.int64)),
    "position negative": array("positions", np.array([0, -4, 2])),
    "position beyond": array("positions", np.array([0, 2**24, 2])),
    "key positions missing": array("key_positions", np.arange(2)),
    "key position beyond": array("key_positions", np.array([0, 1, 2**24], np.int32)),
    "head negative": weights(heads=[0, -1]),
    "head twice": weights(heads=[1, 1]),
    "query negative": weights(queries=[-1]),
    "query beyond": weights(queries=[2, 3]),
    "query twice": weights(queries=[1, 0, 1]),
    "more queries than there are": weights(queries=[0, 1, 2, 0]),
    "top of less than none": weights(top_k=-1),
    "stage unknown": (
        {"need_weights": Weights(stage="softmax")},
        {"attn_weights": pb.AttnWeightsSelection(stage=9)},
    ),
    "weights of integers": (
        {"need_weights": Weights(dtype="int32")},
        {"attn_weights": pb.AttnWeightsSelection(dtype=pb.DATA_TYPE_INT32)},
    ),
    "neither output nor weights": (
        {"need_output": False, "need_weights": False},
        {"omit_output": True},
    ),
    "output of bool": ({"output_dtype": bool}, {"output_dtype": pb.DATA_TYPE_BOOL}),
    "no model": same(model=""),
    "id too long": same(request_id=TOO_LONG),
}


def looks(refusal):
    return refusal.code, refusal.reason, refusal.field


def refused_here(call, *arguments, **more):
    with pytest.raises(InvalidArgumentError) as caught:
        call(*arguments, **more)
    error = caught.value
    ((field, text),) = error.fields.items()
    assert text == str(error)
    return error.code, error.reason, field


@pytest.fixture(scope="module")
def channel(server):
    with open_channel(server) as channel:
        yield channel


def damaged(fields):
    """Make a valid request and replace these fields."""
    request = pb.AttendRequest.FromString(prepare_call(**GOOD).message())
    for name, value in fields.items():
        request.ClearField(name)
        request.MergeFrom(pb.AttendRequest(**{name: value}))
    return request


def test_the_undamaged_request_is_accepted(channel, client):
    assert client.attend(**GOOD).output.shape == QUERY.shape


@pytest.mark.parametrize(("arguments", "fields"), SENT.values(), ids=SENT.keys())
def test_client_and_server_refuse_a_fault_with_the_same_error(channel, client, arguments, fields):
    call, given = damaged(fields), GOOD | arguments
    assert refused_here(client.attend, **given) == looks(refused(channel, call.SerializeToString()))
    rows = pb.AttendRowsRequest(call=call).SerializeToString()
    assert refused_here(client.attend_rows, **given) == looks(refused_stream(channel, rows))


def test_rows_of_a_block(channel, client):
    request = pb.AttendRowsRequest(call=damaged({}), rows_per_block=-1)
    assert refused_here(client.attend_rows, **GOOD, rows_per_block=-1) == looks(
        refused_stream(channel, request.SerializeToString())
    )


def test_a_model_without_a_name(channel, client):
    request = pb.GetModelRequest().SerializeToString()
    assert refused_here(client.model, "") == looks(refused(channel, request, "GetModel"))
