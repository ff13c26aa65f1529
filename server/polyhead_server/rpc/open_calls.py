"""Limits the number of open calls of each peer, and the time that a call waits for its peer.

gRPC waits without a limit for the rest of a request, and for a peer to receive a response. So each
call that waits for its peer has a due time, and an overdue call is cut off.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import time
from collections import Counter
from functools import lru_cache, partial
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from polyhead_server.errors import OverloadedError
from polyhead_server.rpc.caller import identify_caller

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    import grpc

    from polyhead_server.limits import PeerLimits

    ServicerContext = grpc.aio.ServicerContext[bytes, bytes]

__all__ = ["OpenCall", "OpenCalls", "peer_address"]

_LOG = logging.getLogger("polyhead.rpc")
_RETRY_AFTER_MS = 1000
_LARGE_BYTES = 64 << 10
"""Size from which on a message waits for a turn of the event loop of its own."""


class OpenCall:
    """An open call, which is also the context that its handler gets.

    Attributes that it does not define are those of gRPC's context.
    """

    __slots__ = (
        "_connection",
        "_context",
        "_limits",
        "_on_end",
        "_turn",
        "awaits_message",
        "caller_name",
        "due",
        "has_read",
        "method",
        "peer_name",
        "task",
        "time_remaining",
    )

    def __init__(
        self,
        context: ServicerContext,
        method: str,
        connection: str,
        caller_name: str,
        limits: PeerLimits,
        *,
        turn: asyncio.Lock,
    ) -> None:
        """``turn``: of all calls; see _wait_for_turn."""
        self._context = context
        self._turn = turn
        self._connection = connection
        self._limits = limits
        self._on_end: list[Callable[[], None]] = []
        self.time_remaining = context.time_remaining
        self.method = method
        self.caller_name = caller_name
        """Name in the caller's token or certificate; empty if it has neither."""
        self.peer_name = caller_name or peer_address(connection)
        """Name of the caller, or the address of its machine or network."""
        self.task = asyncio.current_task()
        self.due: float | None = None
        """Monotonic time by which the peer must have sent its request or received a message; None
        while the call does not wait for its peer."""
        self.awaits_message = False
        """Whether a message is being received."""
        self.has_read = False
        """Whether a message has been received."""

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - any of gRPC's context
        return getattr(self._context, name)

    def peer(self) -> str:
        """Return gRPC's name of the connection; asking gRPC for it takes a microsecond."""
        return self._connection

    async def read_request(self) -> bytes | None:
        """Wait for the request of a call that has one; None if the peer sends none."""
        self.due = time.monotonic() + self._limits.receive_timeout_s
        try:
            request = await self.read()
        finally:
            self.due = None
        return request if isinstance(request, bytes) else None  # otherwise it is grpc.aio.EOF

    async def read(self) -> object:
        """Wait for the next message, as gRPC's context does."""
        self.awaits_message = True
        try:
            message: object = await self._context.read()
            if isinstance(message, bytes) and len(message) >= _LARGE_BYTES:
                await self._wait_for_turn()
        finally:
            self.awaits_message = False
        self.has_read = True
        return message

    async def _wait_for_turn(self) -> None:
        """Wait until other tasks had a turn since the large message before this one was read.

        Reading it may take 50 ms. If all messages that have arrived were read in one turn, others
        would arrive for seconds in which nothing measures the memory. Until its turn the message
        counts as one that is being received, so it is dropped if memory is short.
        """
        async with self._turn:
            await asyncio.sleep(0)

    async def write(self, message: bytes) -> None:
        """Send a message, as gRPC's context does. The call is cut off if the peer is too slow."""
        self.limit_write(len(message))
        try:
            await self._context.write(message)
        finally:
            self.due = None

    def limit_write(self, num_bytes: int) -> None:
        """Set the time by which the peer must have received ``num_bytes`` from now on."""
        self.due = time.monotonic() + self._limits.max_seconds_to_write(num_bytes)

    def at_end(self, release: Callable[[], None]) -> None:
        """Call ``release`` when the call has ended and its last byte is written."""
        self._on_end.append(release)

    def end(self) -> None:
        """Call the functions that were passed to at_end."""
        for release in self._on_end:
            release()
        self._on_end.clear()


class OpenCalls:
    """All open calls of a server."""

    def __init__(self, limits: PeerLimits) -> None:
        self._limits = limits
        self._calls: dict[OpenCall, None] = {}
        """Oldest first."""
        self._turn = asyncio.Lock()
        self.num_seen = 0
        """Number of all calls so far, including refused ones."""
        self.refuses_new = False
        """Whether new calls are refused, as they are while the server stops."""
        self._max_calls_of_peer = limits.max_calls_of_peer
        self._num_by_peer: dict[str, int] = {}
        """Number of open calls, by the peer's name."""
        self.on_give_up: Callable[[str, bool], None] | None = None
        """Called with the connection of each call that its peer gave up before a message of it was
        read, and with whether its deadline was near."""

    def __len__(self) -> int:
        return len(self._calls)

    def begin(self, context: ServicerContext, method: str) -> OpenCall:
        """Add a call, which is open until the current task ends.

        Raises OverloadedError if too many calls are open, in all or of this peer.
        """
        if len(self._calls) >= self._limits.max_calls:
            raise OverloadedError(
                f"{len(self._calls)} calls are open, the most that this server allows; try again "
                "shortly",
                _RETRY_AFTER_MS,
            )
        call = OpenCall(
            context, method, context.peer(), identify_caller(context), self._limits, turn=self._turn
        )
        num_of_peer = self._num_by_peer.get(call.peer_name, 0)
        if num_of_peer >= self._max_calls_of_peer:
            raise OverloadedError(
                f"{num_of_peer} calls of this caller are open, the most that this server allows "
                "one caller; end some, or raise the server's --max-peer-share",
                _RETRY_AFTER_MS,
            )
        self._calls[call] = None
        self._num_by_peer[call.peer_name] = num_of_peer + 1
        assert call.task is not None
        call.task.add_done_callback(partial(self._end, call))
        return call

    def note_given_up(self, connection: str, *, is_late: bool) -> None:
        """Record that a peer gave up a call before a message of it was read.

        ``is_late``: whether its deadline was near.
        """
        if self.on_give_up:
            self.on_give_up(connection, is_late)

    def peers(self) -> set[str]:
        """Return gRPC's names of the peers that have open calls, one for each connection."""
        return {call.peer() for call in self._calls}

    def receiving(self) -> list[OpenCall]:
        """Return the calls that wait for a message, oldest first."""
        return [call for call in self._calls if call.awaits_message]

    async def cut_overdue(self) -> None:
        """Cut off overdue calls, until this is cancelled."""
        while True:
            await asyncio.sleep(self._limits.poll_s)
            now = time.monotonic()
            overdue = [call for call in self._calls if call.due is not None and call.due < now]
            if overdue:
                self.cut(overdue, "the peer did not send its request, or take a reply, in time")

    def cut(self, calls: Iterable[OpenCall], why: str) -> None:
        """End calls at once, without waiting until all is sent.

        The status that a handler returns would wait behind a response that the peer does not
        receive. So gRPC's own tasks of the call are cancelled. gRPC then drops the call, and resets
        its stream. It drops the newest of all calls only when another one begins.
        """
        tasks, calls = _tasks_of_grpc(), list(calls)
        for (method, peer), count in Counter(
            (call.method, call.peer_name) for call in calls
        ).items():
            extra = {"method": method, "peer": peer, "calls": count, "why": why}
            _LOG.info("calls cut off", extra=extra)
        for call in calls:
            assert call.task is not None
            call.task.cancel()
            if call.task in tasks:
                tasks[call.task].cancel()

    def _end(self, call: OpenCall, _: asyncio.Task[Any]) -> None:
        del self._calls[call]
        num_left = self._num_by_peer.pop(call.peer_name) - 1
        if num_left:
            self._num_by_peer[call.peer_name] = num_left
        call.end()


@lru_cache(maxsize=4096)
def peer_address(peer: str) -> str:
    """Return the address in gRPC's name of a peer, such as 10.0.0.7 in "ipv4:10.0.0.7:50412".

    Of an IPv6 address it returns the first 64 bits only, because one caller has all addresses with
    the same first 64 bits.
    """
    scheme, _, rest = peer.partition(":")
    if not scheme.startswith("ip"):
        return scheme
    address, _, _ = unquote(rest.rpartition(":")[0]).strip("[]").partition("%")
    try:
        parsed = ip_address(address)
    except ValueError:
        return address
    return parsed.exploded[:19] if parsed.version == 6 else address


def _tasks_of_grpc() -> dict[object, asyncio.Task[Any]]:
    """Return the task in which gRPC runs a call, by the task of the call's handler.

    gRPC has no function for it. It is the task whose coroutine refers to the handler's task.
    """
    outer_tasks: dict[object, asyncio.Task[Any]] = {}
    for task in asyncio.all_tasks():
        coroutine = task.get_coro()
        if getattr(coroutine, "__name__", "") == "_schedule_rpc_coro":
            for variables in gc.get_referents(coroutine):
                for value in gc.get_referents(variables):
                    if isinstance(value, asyncio.Task):
                        outer_tasks[value] = task
    return outer_tasks
