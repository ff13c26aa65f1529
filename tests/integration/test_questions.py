"""Messages of methods that take no arrays are short: nothing reserves memory for them."""

from __future__ import annotations

import grpc
import pytest
from odd_messages import varint
from raw_calls import open_channel, read_refusal

from polyhead.v1 import attention_pb2
from polyhead_server.grpc_stubs import health_pb2, reflection_pb2, reflection_v1_pb2
from polyhead_server.inference import grpc_inference_pb2

TAKE_ARRAYS = {
    "Attend",
    "AttendRows",
    "AttendStream",
    "Forward",
    "ModelInfer",
    "ModelStreamInfer",
}
METHODS = [
    f"/{service.full_name}/{method.name}"
    for module in (
        attention_pb2,
        grpc_inference_pb2,
        health_pb2,
        reflection_pb2,
        reflection_v1_pb2,
    )
    for service in module.DESCRIPTOR.services_by_name.values()
    for method in service.methods
    if method.name not in TAKE_ARRAYS
]


def ask(channel, method, size):
    """Ask with so many bytes, most of them in a field that the message does not have."""
    padding = varint(1000 << 3 | 2) + varint(size) + bytes(size)
    return list(channel.stream_stream(method)(iter([padding]), timeout=30))


@pytest.mark.parametrize("method", METHODS)
def test_a_long_message_without_arrays_is_refused(server, method):
    with open_channel(server) as channel, pytest.raises(grpc.RpcError) as caught:
        ask(channel, method, 100_000)
    refusal = read_refusal(caught.value)
    assert (refusal.code, refusal.reason) == ("INVALID_ARGUMENT", "TOO_LONG")
    assert refusal.field == "request"
    assert "takes no arrays" in refusal.message


def test_a_watch_keeps_no_long_name(server):
    with open_channel(server) as channel, pytest.raises(grpc.RpcError) as caught:
        ask(channel, "/grpc.health.v1.Health/Watch", 5_000)
    assert read_refusal(caught.value).reason == "TOO_LONG"


def test_a_message_of_a_usual_length_is_answered(server):
    with open_channel(server) as channel:
        assert ask(channel, "/polyhead.v1.AttentionService/ListModels", 50_000)
