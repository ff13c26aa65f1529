"""Peers that send half a call, take no replies, or open more than they may."""

from __future__ import annotations

import asyncio
import gzip
from contextlib import ExitStack, suppress

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2
from raw_calls import GOOD, SERVICE, WIDTH, open_channel
from raw_http2 import Data, Ended, RawConnection, Reset, framed, rapid_resets

import polyhead
from polyhead.v1 import attention_pb2 as pb
from polyhead.wire.tensors import to_tensor
from polyhead_server.auth.tokens import make_token
from polyhead_server.running import running_server

ATTEND = SERVICE + "Attend"
CANCELLED, RESOURCE_EXHAUSTED, UNAUTHENTICATED = 1, 8, 16


def attend_request(tokens):
    """A request to the built-in model, with a reply of 24 bytes a token."""
    query = np.ones((1, tokens, 6), np.float32)
    return pb.AttendRequest(model="river-bank", query=to_tensor(query))


SMALL = attend_request(1).SerializeToString()
LARGE = attend_request(2048)


@pytest.fixture(scope="module")
def impatient():
    """A server that waits 0.3 s for its peers."""
    with running_server(threads=1, receive_timeout_s=0.3, write_timeout_s=0.3) as server:
        assert_serves(server)  # gRPC keeps the very first call for ever
        yield server


def assert_serves(server):
    with polyhead.Client(server.target) as client:
        assert client.attend(np.ones((1, 3, 6), np.float32), model="river-bank", timeout=10)


@pytest.fixture
def raw(impatient):
    """A connection on which the server may send no byte of a reply."""
    with RawConnection(impatient.target, window=0) as connection:
        yield connection


def is_cut(connection, stream):
    """Whether a stream ends without a reply that the handler has made."""
    connection.wait_for_end(stream, 10)
    return connection.status(stream) in (None, CANCELLED)


# ---------------------------------------------------------------- what is sent by halves


@pytest.mark.parametrize("sent", [0, 3, 30])
def test_a_call_that_is_sent_by_half_is_cut(raw, impatient, sent):
    stream = raw.open(ATTEND, SMALL, sent=sent)
    raw.wait_until_read()
    assert_serves(impatient)  # gRPC keeps the newest call until another one begins
    assert is_cut(raw, stream)


# ---------------------------------------------------------------- replies that nobody takes


def many_requests():
    """Requests over a stream that are refused, each with some hundred bytes."""
    return pb.AttendStreamRequest(requests=[pb.StreamedRequest(id=n) for n in range(1, 100)])


def reflected():
    return reflection_pb2.ServerReflectionRequest(file_containing_symbol=SERVICE[1:-1])


UNREAD = {
    "Attend": (ATTEND, LARGE),
    "AttendRows": (SERVICE + "AttendRows", pb.AttendRowsRequest(call=LARGE)),
    "AttendStream": (SERVICE + "AttendStream", many_requests()),
    "ListModels": (SERVICE + "ListModels", pb.ListModelsRequest()),
    "RepositoryIndex": ("/inference.GRPCInferenceService/RepositoryIndex", None),
    "Check": ("/grpc.health.v1.Health/Check", health_pb2.HealthCheckRequest()),
    "Watch": ("/grpc.health.v1.Health/Watch", health_pb2.HealthCheckRequest()),
    "reflection": ("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", reflected()),
}


@pytest.mark.parametrize("method", UNREAD)
def test_a_reply_that_the_peer_does_not_take_is_dropped(raw, impatient, method):
    path, message = UNREAD[method]
    stream = raw.open(path, message.SerializeToString() if message else b"", end=True)
    raw.wait_until_read()
    assert_serves(impatient)
    assert is_cut(raw, stream)


def test_a_reply_that_is_taken_slowly_arrives(impatient):
    """49 kB have half a second more than a message without content."""
    with RawConnection(impatient.target, window=1 << 10) as connection:
        stream = connection.open(ATTEND, LARGE.SerializeToString(), end=True)
        connection.pump(until=lambda event: isinstance(event, Data))
        connection.pump(0.5)
        connection.allow(stream, 1 << 20)
        connection.wait_for_end(stream)
        assert connection.status(stream) == 0


UNREAD_AT_ONCE = {"Attend": ATTEND, "AttendRows": SERVICE + "AttendRows"}


@pytest.mark.parametrize("method", UNREAD_AT_ONCE)
def test_untaken_replies_leave_memory_to_others(method):
    """50 kB each, of which one address may have half a megabyte."""
    message = LARGE if method == "Attend" else pb.AttendRowsRequest(call=LARGE)
    with (
        running_server(threads=1, max_queue_bytes=1 << 20) as server,
        # gRPC sends an empty message, of 5 bytes, with the status of a call that fails
        RawConnection(server.target, window=5) as greedy,
        RawConnection(server.target, address="127.0.0.2") as other,
    ):
        path, data = UNREAD_AT_ONCE[method], message.SerializeToString()
        streams = [greedy.open(path, data, end=True) for _ in range(40)]
        greedy.wait_for_end(streams[-1])
        refused = [greedy.status(stream) for stream in streams].count(RESOURCE_EXHAUSTED)
        assert 25 <= refused < 40
        stream = other.open(path, data, end=True)
        other.wait_for_end(stream)
        assert other.status(stream) == 0


# ---------------------------------------------------------------- more than is allowed


def test_further_streams_of_a_connection_are_refused(server):
    with RawConnection(server.target) as connection:
        streams = [connection.open(ATTEND) for _ in range(110)]
        connection.pump(
            until=lambda event: isinstance(event, Reset) and event.stream_id == streams[-1]
        )
        refused = {event.stream_id for event in connection.events if isinstance(event, Reset)}
        assert refused == set(streams[100:])


@pytest.mark.parametrize("transport", ["unary", "stream"])
def test_our_clients_may_have_more_calls_under_way(server, transport):
    async def calls():
        async with polyhead.AsyncClient(server.target, transport=transport) as client:
            query = np.ones((1, 3, WIDTH), np.float32)
            results = await asyncio.gather(
                *(client.attend(query, model="plain") for _ in range(250))
            )
            assert all(result.output.shape == query.shape for result in results)

    asyncio.run(calls())


def test_further_connections_are_closed():
    with running_server(max_connections=2) as server:
        first, second = RawConnection(server.target), RawConnection(server.target)
        with pytest.raises(Ended):
            RawConnection(server.target)
        first.close()
        second.close()
        with open_channel(server) as channel:
            assert channel.unary_unary(SERVICE + "ListModels")(b"", timeout=10, wait_for_ready=True)


def test_one_address_cannot_have_all_calls():
    with (
        running_server(max_open_calls=8, max_peer_share=0.5) as server,
        RawConnection(server.target) as connection,
        RawConnection(server.target, address="127.0.0.2") as other,
    ):
        streams = [connection.open(ATTEND) for _ in range(5)]
        connection.wait_for_end(streams[-1])
        assert connection.status(streams[-1]) == RESOURCE_EXHAUSTED
        assert [connection.status(stream) for stream in streams[:-1]] == [None] * 4
        stream = other.open(SERVICE + "ListModels", b"", end=True)
        other.wait_for_end(stream)
        assert other.status(stream) == 0


@pytest.mark.parametrize("compression", [grpc.Compression.Gzip, grpc.Compression.Deflate])
def test_compressed_requests_are_refused(server, compression):
    with open_channel(server) as channel, pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary(ATTEND)(GOOD, timeout=10, compression=compression)
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_a_message_with_a_false_compression_flag_is_not_expanded(server):
    with RawConnection(server.target) as connection:
        stream = connection.open(ATTEND)
        connection.send(stream, framed(gzip.compress(GOOD), compressed=True), end=True)
        connection.wait_for_end(stream)
        assert connection.status(stream) != 0


# ---------------------------------------------------------------- calls that are only given up


@pytest.mark.parametrize("path", [ATTEND, "/no.Service/Method"])
def test_a_connection_that_only_gives_up_calls_is_ended(server, path):
    with RawConnection(server.target, address="127.0.0.2") as connection:
        connection.socket.sendall(rapid_resets(connection, path, 300, 1))
        with pytest.raises(Ended):
            connection.pump(until=lambda _: False)


def test_connections_that_give_up_calls_together_are_ended(server):
    with ExitStack() as connections:
        hasty = [RawConnection(server.target, address="127.0.0.3") for _ in range(12)]
        for connection in hasty:
            connections.enter_context(connection)
        for connection in hasty:
            connection.socket.sendall(rapid_resets(connection, ATTEND, 50, 1))
        with pytest.raises(Ended):
            hasty[0].pump(until=lambda _: False)


def test_calls_that_are_given_up_at_their_deadline_count_less(server):
    """A client that sends more than is answered has hundreds of them a second."""
    timeout = {"grpc-timeout": "900m"}
    with RawConnection(server.target, address="127.0.0.6", **timeout) as connection:
        connection.socket.sendall(rapid_resets(connection, ATTEND, 120, 1))
        with pytest.raises(TimeoutError):  # it is not ended
            connection.pump(1, until=lambda _: False)
        connection.socket.sendall(rapid_resets(connection, ATTEND, 900, 241))
        with pytest.raises(Ended):
            connection.pump(until=lambda _: False)


@pytest.mark.parametrize("path", [ATTEND, "/no.Service/Method"])
def test_calls_that_are_refused_end_no_connection(tmp_path, path):
    """Other callers may have calls on it, if all come through one proxy."""
    tokens = tmp_path / "tokens"
    tokens.write_text(f"{make_token('ci', ['infer'])[1]}\n")
    tokens.chmod(0o600)
    with (
        running_server(tokens_file=tokens) as server,
        RawConnection(server.target) as connection,
    ):
        for _ in range(2):
            streams = [connection.open(path, SMALL, end=True) for _ in range(90)]
            for stream in streams:
                connection.wait_for_end(stream)
            assert {connection.status(stream) for stream in streams} == {UNAUTHENTICATED}
        with suppress(TimeoutError):  # Ended, if it were cut
            connection.pump(0.3, until=lambda _: False)


@pytest.mark.parametrize(
    ("memory", "window"),
    [(64 << 20, 64 << 10), (2 << 30, (2 << 30) // 4000), (64 << 30, 4 << 20), (0, 4 << 20)],
)
def test_less_of_a_message_may_arrive_before_it_is_read_where_memory_is_scarce(memory, window):
    with (
        running_server(threads=1, max_memory_bytes=memory) as server,
        RawConnection(server.target) as peer,
    ):
        assert peer.http2.remote_settings.initial_window_size == window
