"""Messages that nothing reserves memory for: questions, and long messages of streams that wait."""

from __future__ import annotations

from contextlib import ExitStack, suppress

import pytest
from liveness import MIB, Bystander, survives
from raw_calls import SERVICE
from raw_http2 import RawConnection, framed
from serving import serving

from polyhead.v1 import attention_pb2 as pb
from polyhead.v1 import tensor_pb2
from polyhead.wire.protobuf import header
from polyhead_server.grpc_stubs import health_pb2

pytestmark = pytest.mark.faults


@pytest.fixture(scope="module")
def server():
    with serving("--threads", 1) as served:
        yield served


@pytest.mark.parametrize(
    "path",
    [
        "/grpc.health.v1.Health/Watch",
        "/grpc.health.v1.Health/Check",
        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
        SERVICE + "GetModel",
    ],
)
def test_names_of_a_hundred_megabytes(server, path):
    """What was refused is free while the connections stay open, but for the newest call."""
    name = b"\x01" * (100 * MIB)
    number = health_pb2.HealthCheckRequest.SERVICE_FIELD_NUMBER
    message = header(3 if "Reflection" in path else number, len(name)) + name
    with survives(server) as watched, ExitStack() as connections:
        with Bystander(server.address) as bystander:
            bystander.calls()
            for _ in range(5):
                attacker = RawConnection(server.address, address="127.0.0.2", window=1 << 20)
                connections.enter_context(attacker)
                stream = attacker.open(path, message, end=True)
                attacker.wait_for_end(stream, 30)
                assert attacker.status(stream) == 3
            during = bystander.calls()
        watched.wait_until_small(grown_mib=50)
        print(f"{max(during) * 1e3:.0f} ms at most")
        assert max(during) < 3


def test_long_messages_of_streams_that_wait(server):
    """Each has 2,000 requests that are refused, and nobody reads why."""
    query = tensor_pb2.Tensor(
        dtype=tensor_pb2.DATA_TYPE_FLOAT, shape=[1, 4400, 6], data=bytes(4400 * 6 * 4)
    )
    call = pb.AttendRequest(model="no-such-model", query=query)
    requests = [pb.StreamedRequest(id=number, call=call) for number in range(1, 2001)]
    message = framed(pb.AttendStreamRequest(requests=requests).SerializeToString())
    with survives(server) as watched, ExitStack() as connections:
        for _ in range(12):
            attacker = RawConnection(server.address, address="127.0.0.2", window=0)
            connections.enter_context(attacker)
            stream = attacker.open(SERVICE + "AttendStream")
            with suppress(Exception):  # h2 says that the stream has ended meanwhile
                attacker.send(stream, message)
        print(f"{watched.grown():.0f} MiB more for {12 * len(message) / MIB:.0f} MiB")
        # half of --max-queue-bytes, and what arrives at the moment
        assert watched.grown() < 1100
