"""Messages of millions of fields or list entries are refused before protobuf parses them."""

from __future__ import annotations

import pytest
from odd_messages import varint

from polyhead.v1 import attention_pb2 as pb
from polyhead_server.codec.parse_limits import check_parse_limits
from polyhead_server.errors import InvalidRequestError
from polyhead_server.inference import grpc_inference_pb2


def delimited(number, data):
    return varint(number << 3 | 2) + varint(len(data)) + data


@pytest.mark.parametrize(
    ("message_type", "data", "field"),
    [
        (pb.AttendRequest, delimited(8, bytes(3 << 20)), "kv_lengths"),
        # no sequences that are as many
        (pb.AttendRequest, delimited(8, bytes(100_000)), "kv_lengths"),
        (
            pb.AttendRequest,
            delimited(8, bytes(1 << 20)) + delimited(4, bytes(1 << 20)),
            "kv_lengths",
        ),
        # each is small enough, together they are not
        (pb.AttendRequest, delimited(8, bytes(1 << 20)) * 3, "kv_lengths"),
        (pb.AttendRequest, delimited(9, delimited(1, bytes(3 << 20))), "attn_weights.heads"),
        (pb.AttendRequest, delimited(4, delimited(2, bytes(3 << 20))), "query.shape"),
        (pb.AttendRequest, b"\x40\x01" * 70_000, "request"),
        (pb.AttendRequest, b"\x40\x01" * 2_100, "request"),
        (pb.AttendRequest, b"\x0b" * 2_100, "request"),
        (
            pb.AttendStreamRequest,
            delimited(1, delimited(3, delimited(8, bytes(3 << 20)))),
            "requests.call.kv_lengths",
        ),
    ],
    ids=[
        "long",
        "without data",
        "with little data",
        "repeated",
        "nested",
        "shape",
        "unpacked",
        "small",
        "groups",
        "streamed",
    ],
)
def test_too_many_fields_or_entries_are_refused_with_their_path(message_type, data, field):
    with pytest.raises(InvalidRequestError) as caught:
        check_parse_limits(message_type, data)
    assert (caught.value.field, caught.value.reason) == (field, "TOO_MANY")


@pytest.mark.parametrize(
    "data",
    [
        delimited(4, delimited(3, bytes(8 << 20))),  # a tensor's data
        delimited(31, bytes(8 << 20)),  # a field of a newer client
        delimited(8, bytes(60_000)),
        delimited(8, bytes(1 << 20)) + delimited(4, delimited(3, bytes(4 << 20))),
        b"\x40\x01" * 2_000,
        delimited(8, bytes(60_000))[:-1],  # truncated, which protobuf reports
        b"\xff" * 100_000,
        b"\x0b" * 2_000,
    ],
    ids=["data", "unknown", "list", "list and data", "unpacked", "truncated", "no tag", "groups"],
)
def test_other_messages_are_left_to_protobuf(data):
    check_parse_limits(pb.AttendRequest, data)


def test_lists_are_the_arrays_of_the_open_inference_protocol():
    contents = grpc_inference_pb2.InferTensorContents(int64_contents=[1] * 1_000_000)
    tensor = grpc_inference_pb2.ModelInferRequest.InferInputTensor(contents=contents)
    request = grpc_inference_pb2.ModelInferRequest(inputs=[tensor])
    check_parse_limits(type(request), request.SerializeToString())
