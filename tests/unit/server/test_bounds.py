"""Messages that protobuf should not even parse: of millions of fields, or of entries."""

from __future__ import annotations

import pytest
from odd_messages import varint

from polyhead.v1 import attention_pb2 as pb
from polyhead_server.codec.parse_limits import check_bounds
from polyhead_server.errors import InvalidRequestError


def delimited(number, data):
    return varint(number << 3 | 2) + varint(len(data)) + data


@pytest.mark.parametrize(
    ("message_type", "data", "field"),
    [
        (pb.AttendRequest, delimited(8, bytes(3 << 20)), "kv_lengths"),
        # each small enough, together not
        (pb.AttendRequest, delimited(8, bytes(1 << 20)) * 3, "kv_lengths"),
        (pb.AttendRequest, delimited(9, delimited(1, bytes(3 << 20))), "attn_weights.heads"),
        (pb.AttendRequest, delimited(4, delimited(2, bytes(3 << 20))), "query.shape"),
        (pb.AttendRequest, b"\x40\x01" * 70_000, "request"),
        (
            pb.AttendStreamRequest,
            delimited(1, delimited(3, delimited(8, bytes(3 << 20)))),
            "requests.call.kv_lengths",
        ),
    ],
    ids=["long", "repeated", "nested", "shape", "unpacked", "streamed"],
)
def test_too_much_is_refused_by_name(message_type, data, field):
    with pytest.raises(InvalidRequestError) as caught:
        check_bounds(message_type, data)
    assert (caught.value.field, caught.value.reason) == (field, "TOO_MANY")


@pytest.mark.parametrize(
    "data",
    [
        delimited(4, delimited(3, bytes(8 << 20))),  # a tensor's data
        delimited(31, bytes(8 << 20)),  # of a newer client
        delimited(8, bytes(1 << 20)),
        b"\x40\x01" * 60_000,
        delimited(8, bytes(100_000))[:-1],  # truncated, which protobuf will say
        b"\xff" * 100_000,
        b"\x0b" * 65_000,
    ],
    ids=["data", "unknown", "list", "unpacked", "truncated", "no tag", "groups"],
)
def test_the_rest_is_for_protobuf(data):
    check_bounds(pb.AttendRequest, data)
