"""The calls that are open: how many each peer has, and how long they may wait for their peer.

gRPC waits without a limit for the rest of a request, and for a peer to take a reply. So each call
has a time by which its peer must have done what the call waits for, and an overdue call is cut.
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


class OpenCall:
    """A call from its begin to its end, and the context that its handler gets.

    What it does not define is that of gRPC's own context.
    """

    __slots__ = (
        "_connection",
        "_context",
        "_limits",
        "_on_end",
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
    ) -> None:
        self._context = context
        self._connection = connection
        self._limits = limits
        self._on_end: list[Callable[[], None]] = []
        self.time_remaining = context.time_remaining
        self.method = method
        self.caller_name = caller_name
        """From the caller's token or certificate; empty if it has neither."""
        self.peer_name = caller_name or peer_address(connection)
        """Name of the caller, or the address of its machine or network."""
        self.task = asyncio.current_task()
        self.due: float | None = None
        """Monotonic time by which the peer must have sent its request or taken a message; None: it
        owes nothing."""
        self.awaits_message = False
        """Whether a message is being received."""
        self.has_read = False
        """Whether a message has been received."""

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - whatever gRPC's context has
        return getattr(self._context, name)

    def peer(self) -> str:
        """Return gRPC's name of the connection; asking gRPC for it takes a microsecond."""
        return self._connection

    async def read_request(self) -> bytes | None:
        """Wait for the request of a call that has one; None if there is none."""
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
        finally:
            self.awaits_message = False
        self.has_read = True
        return message

    async def write(self, message: bytes) -> None:
        """Send a message, as gRPC's context does; the call is cut if the peer does not take it."""
        self.owes(len(message))
        try:
            await self._context.write(message)
        finally:
            self.due = None

    def owes(self, num_bytes: int) -> None:
        """Note that the peer has to take so many bytes from now on."""
        self.due = time.monotonic() + self._limits.max_seconds_to_write(num_bytes)

    def at_end(self, release: Callable[[], None]) -> None:
        """Let ``release`` be called when the call has ended and its last byte is written."""
        self._on_end.append(release)

    def end(self) -> None:
        """Release what the call holds."""
        for release in self._on_end:
            release()
        self._on_end.clear()


class OpenCalls:
    """All open calls of a server."""

    def __init__(self, limits: PeerLimits) -> None:
        self._limits = limits
        self._calls: dict[OpenCall, None] = {}
        """Oldest first."""
        self.num_seen = 0
        """How many calls handlers were asked for so far, refused ones included."""
        self.refuses_new = False
        """Whether new calls are refused, because the server stops."""
        self._max_calls_of_peer = limits.max_calls_of_peer
        self._num_of: dict[str, int] = {}
        """Number of open calls by peer."""
        self.on_give_up: Callable[[str], None] | None = None
        """Is called for each call that its peer gave up before a message of it was read, with the
        connection."""

    def __len__(self) -> int:
        return len(self._calls)

    def begin(self, context: ServicerContext, method: str) -> OpenCall:
        """Note a call that begins in the current task, until that ends.

        Raises OverloadedError if too many calls are open, or too many of its peer.
        """
        if len(self._calls) >= self._limits.max_calls:
            raise OverloadedError(
                f"{len(self._calls)} calls are open, as many as this server lets be; try again "
                "shortly",
                _RETRY_AFTER_MS,
            )
        call = OpenCall(context, method, context.peer(), identify_caller(context), self._limits)
        num_of_peer = self._num_of.get(call.peer_name, 0)
        if num_of_peer >= self._max_calls_of_peer:
            raise OverloadedError(
                f"{num_of_peer} calls of this caller are open, as many as this server lets "
                "one have; end some, or raise its --max-peer-share",
                _RETRY_AFTER_MS,
            )
        self._calls[call] = None
        self._num_of[call.peer_name] = num_of_peer + 1
        assert call.task is not None
        call.task.add_done_callback(partial(self._end, call))
        return call

    def note_given_up(self, connection: str) -> None:
        """Note that a peer gave up a call before a message of it was read."""
        if self.on_give_up:
            self.on_give_up(connection)

    def peers(self) -> set[str]:
        """Return gRPC's names of the peers that have open calls, one for each connection."""
        return {call.peer() for call in self._calls}

    def receiving(self) -> list[OpenCall]:
        """Return the calls that wait for a message, oldest first."""
        return [call for call in self._calls if call.awaits_message]

    async def cut_overdue(self) -> None:
        """Cut the calls whose peers owe something for too long, until this is cancelled."""
        while True:
            await asyncio.sleep(self._limits.poll_s)
            now = time.monotonic()
            late = [call for call in self._calls if call.due is not None and call.due < now]
            if late:
                self.cut(late, "the peer did not send its request, or take a reply, in time")

    def cut(self, calls: Iterable[OpenCall], why: str) -> None:
        """End calls at once, without waiting for what is still to be sent.

        The status that a handler returns would wait behind a reply that nobody takes. So gRPC's own
        tasks of the call are cancelled. gRPC then drops the call, and resets its stream. It keeps
        the newest call of all until another one begins.
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
        num_left = self._num_of.pop(call.peer_name) - 1
        if num_left:
            self._num_of[call.peer_name] = num_left
        call.end()


@lru_cache(maxsize=4096)
def peer_address(peer: str) -> str:
    """Return the address in gRPC's name of a peer, such as 10.0.0.7 in "ipv4:10.0.0.7:50412".

    It has the first 64 bits of an IPv6 address only, because one caller has all that begin so.
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
    """Find, by the task that runs a call's handler, the task that holds the call.

    gRPC does not give it out. It is the one whose coroutine refers to the handler's task.
    """
    found: dict[object, asyncio.Task[Any]] = {}
    for task in asyncio.all_tasks():
        coroutine = task.get_coro()
        if getattr(coroutine, "__name__", "") == "_schedule_rpc_coro":
            for variables in gc.get_referents(coroutine):
                for held in gc.get_referents(variables):
                    if isinstance(held, asyncio.Task):
                        found[held] = task
    return found
