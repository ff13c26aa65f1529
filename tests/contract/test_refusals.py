"""Bad requests are refused with a code, a reason and the field, whatever stands before a server."""

from __future__ import annotations

import grpc
import numpy as np
import pytest
from tests.contract.arrays import draw
from tests.contract.inference import PATH, infer_request
from tests.contract.refusals import read_refusal, refused

from polyhead.v1 import attention_pb2 as pb
from polyhead.v1 import forward_pb2, tensor_pb2
from polyhead.wire.tensors import to_tensor

INVALID = grpc.StatusCode.INVALID_ARGUMENT
NOT_FOUND = grpc.StatusCode.NOT_FOUND
PLAIN = {"model": "contract-plain", "query": to_tensor(draw(1, 3, 16))}
SHORT = tensor_pb2.Tensor(dtype=tensor_pb2.DATA_TYPE_FLOAT, shape=[1, 3, 16], data=b"1234")
UNTYPED = tensor_pb2.Tensor(shape=[1, 3, 16], data=bytes(192))
NAN = draw(1, 3, 16) * np.float32("nan")

ATTEND = {
    "no model": ({"model": ""}, INVALID, "REQUIRED", "model"),
    "unknown model": ({"model": "no-such-model"}, NOT_FOUND, "MODEL_NOT_FOUND", ""),
    "unknown version": ({"model_version": 77}, NOT_FOUND, "MODEL_VERSION_NOT_FOUND", ""),
    "no query": ({"query": None}, INVALID, "REQUIRED", "query"),
    "width": ({"query": to_tensor(draw(1, 3, 15))}, INVALID, "SHAPE_MISMATCH", "query.shape"),
    "axes": ({"query": to_tensor(draw(3, 16))}, INVALID, "SHAPE_MISMATCH", "query.shape"),
    "bytes": ({"query": SHORT}, INVALID, "BYTE_SIZE_MISMATCH", "query.data"),
    "no type": ({"query": UNTYPED}, INVALID, "UNSUPPORTED_DTYPE", "query.dtype"),
    "not a number": ({"query": to_tensor(NAN)}, INVALID, "NON_FINITE", "query.data"),
    "key of another batch": (
        {"key": to_tensor(draw(2, 3, 16))},
        INVALID,
        "SHAPE_MISMATCH",
        "key.shape",
    ),
    "mask": (
        {"attn_mask": to_tensor(np.ones((2, 7), bool))},
        INVALID,
        "SHAPE_MISMATCH",
        "attn_mask.shape",
    ),
    "lengths": ({"kv_lengths": [9]}, INVALID, "OUT_OF_RANGE", "kv_lengths[0]"),
    "head": (
        {"attn_weights": pb.AttnWeightsSelection(heads=[4])},
        INVALID,
        "OUT_OF_RANGE",
        "attn_weights.heads[0]",
    ),
    "long id": ({"request_id": "x" * 257}, INVALID, "INVALID_VALUE", "request_id"),
}


@pytest.mark.parametrize("case", ATTEND)
def test_attend(stub, case):
    fields, *expected = ATTEND[case]
    given = {name: value for name, value in (PLAIN | fields).items() if value is not None}
    refusal = refused(stub.Attend, pb.AttendRequest(**given))
    assert list(refusal[:3]) == expected
    assert refusal.message


def test_attend_rows(stub):
    call = pb.AttendRequest(model="contract-plain", query=to_tensor(draw(1, 3, 15)))
    refusal = refused(stub.AttendRows, pb.AttendRowsRequest(call=call))
    assert refusal[:3] == (INVALID, "SHAPE_MISMATCH", "call.query.shape")


def test_forward(stub):
    request = forward_pb2.ForwardRequest(
        model="contract-bert", token_ids=to_tensor(np.array([[1_000_000]], np.int64))
    )
    refusal = refused(stub.Forward, request)
    assert refusal[:3] == (INVALID, "OUT_OF_RANGE", "token_ids[0, 0]")


def test_forward_of_a_block(stub):
    request = forward_pb2.ForwardRequest(
        model="contract-plain", token_ids=to_tensor(np.array([[1]], np.int64))
    )
    assert refused(stub.Forward, request).code in {INVALID, grpc.StatusCode.FAILED_PRECONDITION}


def test_descriptions(stub):
    refusal = refused(stub.GetModel, pb.GetModelRequest(name="no-such-model"))
    assert refusal[:2] == (NOT_FOUND, "MODEL_NOT_FOUND")
    assert "no-such-model" in refusal.message


def test_reloading_is_off(stub):
    refusal = refused(stub.ReloadModels, pb.ReloadModelsRequest())
    assert refusal.code is grpc.StatusCode.FAILED_PRECONDITION


def test_bytes_that_are_no_message(channel):
    send = channel.unary_unary("/polyhead.v1.AttentionService/Attend")
    refusal = refused(send, b"\xff\xff\xff\xff")
    assert refusal[:2] == (INVALID, "MALFORMED")


def test_bytes_that_are_no_message_of_a_stream(channel):
    send = channel.stream_stream("/polyhead.v1.AttentionService/AttendStream")
    with pytest.raises(grpc.RpcError) as caught:
        list(send(iter([b"\xff\xff\xff\xff"]), timeout=30))
    assert read_refusal(caught.value)[:2] == (INVALID, "MALFORMED")


def test_inference(channel):
    send = channel.unary_unary(f"{PATH}/ModelInfer", lambda request: request.SerializeToString())
    refusal = refused(send, infer_request("contract-plain", draw(1, 3, 15)))
    assert refusal.code is INVALID
    assert refusal.field
    assert refused(send, infer_request("no-such-model", draw(1, 3, 15))).code is NOT_FOUND


def test_a_request_over_the_limit(stub):
    limit = stub.GetServerInfo(pb.GetServerInfoRequest(), timeout=30).limits.max_request_bytes
    query = tensor_pb2.Tensor(
        dtype=tensor_pb2.DATA_TYPE_FLOAT, shape=[1, 1, 16], data=bytes(limit + 1)
    )
    refusal = refused(stub.Attend, pb.AttendRequest(model="contract-plain", query=query))
    assert refusal.code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert refusal.limit == "max_request_bytes"


def test_an_unknown_method(channel):
    send = channel.unary_unary("/polyhead.v1.AttentionService/NoSuchMethod")
    with pytest.raises(grpc.RpcError) as caught:
        send(b"", timeout=30)
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
