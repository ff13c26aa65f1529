"""Reserves memory for requests and their replies, from arrival until the reply is written."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Self

from polyhead_server.errors import OverloadedError

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["MemoryBudget", "Reservation"]

_RETRY_AFTER_MS = 100


class MemoryBudget:
    """Limits the reserved bytes: of all callers together, and of each caller.

    A caller without a reservation may always have one request, whatever its own limit is, if the
    total stays within its limit. If nothing is reserved at all, one request may have any size.
    """

    def __init__(
        self,
        max_bytes: int,
        max_share: float = 1.0,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``max_share``: the largest share of the bytes for one caller."""
        self.max_bytes = max_bytes
        self.held_bytes = 0
        self.idle_since: float | None = None
        """When the last request ended, on the monotonic clock; None before, and during requests."""
        self._max_bytes_of_one = int(max_bytes * max_share)
        self._bytes_by_caller: dict[str, int] = {}
        self._clock = clock

    def reserve(self, size: int, caller: str = "") -> Reservation:
        """Reserve bytes until the reservation is released. Raises OverloadedError."""
        reservation = Reservation(self, caller)
        reservation.grow(size)
        return reservation

    def note_request(self) -> None:
        """Record the end of a request that had no reservation."""
        if not self.held_bytes:
            self.idle_since = self._clock()

    def _check(self, size: int, caller: str, own_bytes: int) -> None:
        others = self.held_bytes - own_bytes
        if others and self.held_bytes + size > self.max_bytes:
            raise OverloadedError(
                f"the server holds {self.held_bytes} bytes of requests and replies already; try "
                "again shortly, send less at once, or raise its --max-queue-bytes",
                _RETRY_AFTER_MS,
            )
        of_caller = self._bytes_by_caller.get(caller, 0) if others else 0
        if of_caller > own_bytes and of_caller + size > self._max_bytes_of_one:
            raise OverloadedError(
                f"{of_caller} bytes of requests and replies of this address are held already; take "
                "the replies, send less at once, or raise the server's --max-peer-share or "
                "--max-queue-bytes",
                _RETRY_AFTER_MS,
            )

    def _add(self, size: int, caller: str) -> None:
        self.held_bytes += size
        self._bytes_by_caller[caller] = self._bytes_by_caller.get(caller, 0) + size
        self.idle_since = None

    def _remove(self, size: int, caller: str) -> None:
        self.held_bytes -= size
        remaining = self._bytes_by_caller.pop(caller) - size
        if remaining:
            self._bytes_by_caller[caller] = remaining
        if not self.held_bytes:
            self.idle_since = self._clock()


class Reservation:
    """The bytes that are reserved for one request and its reply. A `with` releases them."""

    __slots__ = ("_budget", "_caller", "size")

    def __init__(self, budget: MemoryBudget, caller: str) -> None:
        self._budget = budget
        self._caller = caller
        self.size = 0

    def grow(self, size: int) -> None:
        """Reserve more bytes. Raises OverloadedError."""
        if size:
            self._budget._check(size, self._caller, self.size)  # noqa: SLF001 - part of it
            self.add(size)

    def add(self, size: int) -> None:
        """Reserve more bytes without a check, because they are in memory already."""
        if not size:
            return
        self._budget._add(size, self._caller)  # noqa: SLF001 - part of it
        self.size += size

    def release(self) -> None:
        """Give back all bytes."""
        size, self.size = self.size, 0
        if size:
            self._budget._remove(size, self._caller)  # noqa: SLF001 - part of it

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()
