"""The port that receives calls: a gRPC server, its limits, and its connections."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import grpc

from polyhead_server.process.network.connections import listeners
from polyhead_server.process.network.port import (
    address_of,
    cannot_listen,
    check_address,
    socket_path,
)
from polyhead_server.process.network.received_calls import CountedServer
from polyhead_server.process.resources.descriptors import connections_that_fit

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Collection, Sequence

    from polyhead_server.process.security import Security
    from polyhead_server.settings import ServerSettings

__all__ = ["GrpcPort"]

_LOG = logging.getLogger("polyhead.app")
_INT32_MAX = 2**31 - 1
_MAX_UNACCEPTED = 256
"""Connections that wait for gRPC to take them. It has 4096, and a caller who opens and closes many
fills all places with connections that have ended, and whose calls are read nevertheless."""
_MAX_PENDING_CALLS = 2000
"""Calls that wait for Python: a second of small ones."""
_MIN_WINDOW_BYTES, _MAX_WINDOW_BYTES = 64 << 10, 4 << 20
"""Bytes of a message that may arrive before Python reads it. The rest follows a round trip later:
from a peer 50 ms away a message of 2 MB takes 90 ms with the largest window, 200 with the least."""
_STREAM_MESSAGE_BYTES = 2 << 20
_STREAMED_OVERHEAD_BYTES = 1 << 10
"""Upper bound of what a stream's message adds to the one response that it holds."""
_MAX_METADATA_BYTES = 16 << 10
_NO_COMPRESSION = 1 << grpc.Compression.NoCompression.value


class GrpcPort:
    """Listens on the address of its settings, once started."""

    def __init__(self, settings: ServerSettings, security: Security, *, may_raise: bool) -> None:
        """``may_raise``: whether the process's limit of descriptors may be raised."""
        self._settings = settings
        self._security = security
        self.max_connections = connections_that_fit(settings.max_connections, may_raise=may_raise)
        """Most connections at once."""
        self.max_waiting_calls = _MAX_PENDING_CALLS
        if self.max_connections < settings.max_connections:
            extra = {"connections": self.max_connections, "wanted": settings.max_connections}
            _LOG.warning(
                "few descriptors: raise ulimit -n, or lower --max-connections", extra=extra
            )
        self._counted = CountedServer(_options(settings, self.max_connections))
        self._server = self._counted.server

    def check(self) -> None:
        """Raise StartupError if no server can listen there, before models are loaded."""
        if self._settings.workers == 1:  # otherwise the supervisor has it
            check_address(self._settings.host, self._settings.port)

    async def start(self, handlers: Sequence[grpc.GenericRpcHandler]) -> int:
        """Serve calls by these handlers. Return the port; 0: a socket of a path.

        Raises StartupError if the system refuses the address.
        """
        host, port = self._settings.host, self._settings.port
        self._server.add_generic_rpc_handlers(tuple(handlers))
        try:
            bound = self._security.listen(self._server, address_of(host, port))
        except RuntimeError as error:
            raise cannot_listen(host, port, error) from error
        await self._server.start()
        for listener in listeners(bound):
            listener.listen(_MAX_UNACCEPTED)
        return bound if socket_path(host) is None else 0

    def num_received(self) -> int:
        """Return how many calls have arrived so far, with those that gRPC has dropped."""
        return self._counted.num_received()

    def num_unanswered(self, addresses: Collection[str]) -> Counter[str]:
        """Return by address how many of its calls gRPC has dropped, or Python not answered."""
        return self._counted.num_unanswered(addresses)

    async def stop(self, grace_s: float) -> None:
        """Let calls finish for ``grace_s`` seconds, and end the remaining ones."""
        await self._server.stop(grace_s or None)


def _max_received_bytes(settings: ServerSettings) -> int:
    # a message of a stream holds up to a megabyte of requests, even if each must be smaller
    return min(max(2 * settings.max_request_bytes, _STREAM_MESSAGE_BYTES), _INT32_MAX)


def _max_sent_bytes(settings: ServerSettings) -> int:
    # each response is checked against its limit before it runs; a stream's message joins several
    answer = settings.max_response_bytes + _STREAMED_OVERHEAD_BYTES
    return min(max(answer, _STREAM_MESSAGE_BYTES), _INT32_MAX)


def _window_bytes(settings: ServerSettings) -> int:
    if not settings.max_memory_bytes:  # none is watched
        return _MAX_WINDOW_BYTES
    # all calls that may wait for Python have half of the memory together
    share = settings.max_memory_bytes // 2 // _MAX_PENDING_CALLS
    return min(max(_MIN_WINDOW_BYTES, share), _MAX_WINDOW_BYTES)


def _options(settings: ServerSettings, max_connections: int) -> list[tuple[str, int]]:
    return [
        # gRPC refuses a message over its limit before our code sees it, with an error that does not
        # name the flag. So gRPC's limit is twice ours, and the services refuse what lies between
        # with an error that names the flag.
        ("grpc.max_receive_message_length", _max_received_bytes(settings)),
        ("grpc.max_send_message_length", _max_sent_bytes(settings)),
        # gRPC would enlarge the windows of fast peers. Then 2,000 calls of 2 MB arrive before
        # Python has seen the first of them, and a server with 512 MiB is killed.
        ("grpc.http2.bdp_probe", 0),
        ("grpc.http2.lookahead_bytes", _window_bytes(settings)),
        # Between the two, gRPC answers some calls and refuses others, at random.
        ("grpc.max_metadata_size", _MAX_METADATA_BYTES),
        ("grpc.absolute_max_metadata_size", _MAX_METADATA_BYTES),
        # A client that opens and resets streams as fast as it can, or that opens them and sends
        # nothing, is bounded by the streams of a connection, and by ResetGuard.
        ("grpc.max_concurrent_streams", settings.max_concurrent_streams),
        ("grpc.http.overload_protection", 0),  # see ResetGuard
        ("grpc.max_allowed_incoming_connections", max_connections),
        # A refusal by Python costs nearly half of a small answer, so under five times the load that
        # it answers a server would do nothing else. When so many calls wait for Python, gRPC drops
        # further ones by itself, which costs a tenth of that: CANCELLED, without a reason. One
        # connection never has as many, because of its limit of streams.
        ("grpc.server.max_pending_requests", _MAX_PENDING_CALLS),
        ("grpc.server.max_pending_requests_hard_limit", _MAX_PENDING_CALLS),
        # A bomb of 260 kB is 256 MB of zeros. gRPC bounds no ratio, so it refuses compression
        # (UNIMPLEMENTED), which takes more time than it saves: floats hardly get smaller.
        ("grpc.compression_enabled_algorithms_bitset", _NO_COMPRESSION),
        # Only workers share a port. A second server on it is a mistake, so it must fail to start
        # instead of silently taking half of the calls.
        ("grpc.so_reuseport", int(settings.workers > 1)),
        # connections that never complete the handshake are closed, so they cannot delay draining
        ("grpc.server_handshake_timeout_ms", 5_000),
        # connections are renewed so that load balancers reach servers that were added later; a
        # stream of rows may finish on the old connection, however slowly it is read
        ("grpc.max_connection_age_ms", 300_000),
        ("grpc.max_connection_age_grace_ms", 3_600_000),
        ("grpc.keepalive_time_ms", 60_000),
        ("grpc.keepalive_timeout_ms", 20_000),
        ("grpc.keepalive_permit_without_calls", 1),
        # Balancers notice by pings that a server hangs. More than one a second end a connection.
        ("grpc.http2.min_ping_interval_without_data_ms", 1_000),
    ]
