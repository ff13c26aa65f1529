"""Calls with hand-made bytes, and refusals read as a stock gRPC program reads them."""

from __future__ import annotations

import re
from contextlib import contextmanager
from dataclasses import dataclass

import grpc
import numpy as np
import pytest
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_status import rpc_status

from polyhead.v1 import attention_pb2 as pb
from polyhead.wire.tensors import to_array, to_tensor

SERVICE = "/polyhead.v1.AttentionService/"
DETAILS = {
    name: getattr(error_details_pb2, name)
    for name in ("ErrorInfo", "BadRequest", "QuotaFailure", "RetryInfo")
}
# what no caller may learn: where we run, what we are made of
GIVEN_AWAY = re.compile(
    r"Traceback|\w(Error|Exception)\b|object at|\.py\b|\.onnx|site-packages|polyhead_server|/tmp/|"
    r"/home/|/usr/|127\.0\.0\.1|localhost|numpy|onnxruntime",
    re.IGNORECASE,
)
WIDTH = 16  # of the model called plain


@dataclass
class Refusal:
    code: str
    message: str
    reason: str = ""
    field: str = ""
    limit: str = ""
    figures: dict | None = None
    retry_after_s: float | None = None


def read_refusal(error):
    """Read an error as a stock gRPC program does, and hold what every refusal must keep."""
    refusal = Refusal(error.code().name, error.details())
    status = rpc_status.from_call(error)  # None: gRPC's own refusals have no details
    if status is not None:
        assert status.message == refusal.message
        for packed in status.details:
            name = packed.type_url.rpartition("google.rpc.")[2]
            detail = DETAILS[name]()
            assert packed.Unpack(detail)
            if name == "ErrorInfo":
                assert detail.domain == "polyhead"
                refusal.reason, refusal.figures = detail.reason, dict(detail.metadata)
            elif name == "BadRequest":
                refusal.field = detail.field_violations[0].field
            elif name == "QuotaFailure":
                refusal.limit = detail.violations[0].subject
            else:
                refusal.retry_after_s = detail.retry_delay.ToTimedelta().total_seconds()
        assert refusal.reason
        assert bool(refusal.field) == (refusal.code == "INVALID_ARGUMENT")
        assert not GIVEN_AWAY.search(str(status)), str(status)
    assert not GIVEN_AWAY.search(refusal.message), refusal.message
    return refusal


def call(channel, data, method="Attend", **options):
    """Send bytes as they are, and give the bytes that come back."""
    return channel.unary_unary(SERVICE + method)(data, **({"timeout": 30} | options))


def refused(channel, data, method="Attend", **options):
    with pytest.raises(grpc.RpcError) as caught:
        call(channel, data, method, **options)
    return read_refusal(caught.value)


def stream(channel, data, method="AttendRows", **options):
    """Send bytes as they are, and give the call whose iterator yields the bytes that come back."""
    return channel.unary_stream(SERVICE + method)(data, **({"timeout": 30} | options))


def refused_stream(channel, data, **options):
    with pytest.raises(grpc.RpcError) as caught:
        list(stream(channel, data, **options))
    return read_refusal(caught.value)


def open_channel(server, **options):
    options = {"grpc.max_send_message_length": -1, "grpc.max_receive_message_length": -1} | options
    return grpc.insecure_channel(server.target, options=list(options.items()))


def embeddings(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


def request(**fields):
    """A good request to the model called plain, with whatever fields replaced."""
    given = {"model": "plain", "query": to_tensor(embeddings(2, 3, WIDTH))} | fields
    return pb.AttendRequest(**given)


def rows_request(rows_per_block=0, **fields):
    """A good request for rows to the model called plain, with whatever fields replaced."""
    return pb.AttendRowsRequest(call=request(**fields), rows_per_block=rows_per_block)


def tensor(shape, data=b"", dtype=pb.DATA_TYPE_FLOAT):
    return pb.Tensor(dtype=dtype, shape=shape, data=data)


def delimited(number, content):
    """A length-delimited protobuf field, by hand."""
    size, length = b"", len(content)
    while length > 0x7F:
        size += bytes([length & 0x7F | 0x80])
        length >>= 7
    return bytes([number << 3 | 2]) + size + bytes([length]) + content


def assert_serves(channel):
    health = health_pb2_grpc.HealthStub(channel)
    for service in ("", "polyhead.v1.AttentionService"):
        answer = health.Check(health_pb2.HealthCheckRequest(service=service), timeout=30)
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
    answer = pb.AttendResponse.FromString(call(channel, request().SerializeToString()))
    assert np.isfinite(to_array(answer.output)).all()


@contextmanager
def channel_that_outlives(server, **options):
    """A channel to a server that must still serve when the test is over."""
    with open_channel(server, **options) as channel:
        yield channel
        assert_serves(channel)


GOOD = request().SerializeToString()
