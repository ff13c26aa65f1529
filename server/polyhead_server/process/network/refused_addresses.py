"""Addresses that may not connect for a while, because they come back at once when they are cut off.

Ending connections does not stop a caller who opens new ones within milliseconds: each brings a
hundred calls before it is ended. So the kernel drops what such an address sends to the socket that
listens, which costs the server nothing. The first time for a second, because it may be a proxy with
honest callers; each further time for ten times as long. An address that is only suspected pauses:
it is refused for less than a second. An honest client's system tries again after a second.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from typing import TYPE_CHECKING, NamedTuple

from polyhead_server.process.network.connections import listeners
from polyhead_server.process.network.socket_filter import drop_packets

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["PAUSED_S", "RefusedAddresses"]

_LOG = logging.getLogger("polyhead.connections")
PAUSED_S = 0.9
"""How long an address pauses."""
_FIRST_S, _FACTOR, _LONGEST_S = 1.0, 10, 300.0
"""Many addresses can take turns. Each that comes back takes a second until it is refused again, in
which others have few answers."""
_REMEMBERED_S = 600.0
"""Seconds after which an address counts as a new one."""
_MOST = 200
"""Most addresses that are refused at once, and most that pause. The filter compares each packet
with all of them."""


class _Refusal(NamedTuple):
    seconds: float
    until: float


class RefusedAddresses:
    """The addresses that may not connect to one port."""

    def __init__(self, port: int, *, poll_s: float = 0.1) -> None:
        self._port = port
        self._poll_s = poll_s
        self._lock = threading.Lock()  # guards run in threads
        self._refusals: dict[str, _Refusal] = {}
        """By address, those that ended lately as well."""
        self._paused: dict[str, float] = {}
        """By address, until when."""
        self._dropped: list[str] = []
        """What the kernel drops now."""

    def refuse(self, addresses: Sequence[str], now: float, least_s: float = 0.0) -> list[float]:
        """Let addresses open no connection for a while, and return until when, for each.

        They keep the connections that they have. ``least_s``: seconds that it lasts at least.
        """
        with self._lock:
            until = [self._refusal(address, now, least_s).until for address in addresses]
            self._update(now)
            return until

    def pause(self, addresses: Sequence[str], now: float) -> None:
        """Let addresses open no connection for PAUSED_S. This does not count as a refusal."""
        with self._lock:
            self._paused = dict.fromkeys(addresses[:_MOST], now + PAUSED_S)
            self._update(now)

    def _refusal(self, address: str, now: float, least_s: float) -> _Refusal:
        """Return the refusal of an address that lasts, or a new one."""
        if not self.is_refused(address, now):
            before = self._refusals.pop(address, None)  # so that the latest is the last
            seconds = max(least_s, _FACTOR * before.seconds if before else _FIRST_S)
            seconds = min(_LONGEST_S, seconds)
            if len(self._refusals) == _MOST:
                del self._refusals[next(iter(self._refusals))]
            self._refusals[address] = _Refusal(seconds, now + seconds)
        return self._refusals[address]

    def is_refused(self, address: str, now: float) -> bool:
        """Whether an address may open no connection now."""
        refusal = self._refusals.get(address)
        return refusal is not None and refusal.until > now

    def update(self, now: float) -> None:
        """Let addresses connect again whose time is over."""
        with self._lock:
            self._update(now)

    async def watch(self) -> None:
        """Let addresses connect again when their time is over, until this is cancelled."""
        while True:
            await asyncio.sleep(self._poll_s)
            if self._refusals or self._paused:
                self.update(time.monotonic())

    def _update(self, now: float) -> None:
        remembered = now - _REMEMBERED_S
        self._refusals = {a: each for a, each in self._refusals.items() if each.until > remembered}
        self._paused = {a: until for a, until in self._paused.items() if until > now}
        refused = [a for a, each in self._refusals.items() if each.until > now]
        addresses = [*dict.fromkeys([*refused, *self._paused])]
        if addresses == self._dropped:
            return
        self._dropped = addresses
        try:
            for listener in listeners(self._port):
                drop_packets(listener, addresses)
        except OSError as error:
            _LOG.debug("cannot refuse addresses: %s", error)
