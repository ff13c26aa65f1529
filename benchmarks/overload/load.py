"""Makes calls at a rate that does not depend on the responses, each with a deadline."""

from __future__ import annotations

import select
import time
from collections import Counter, deque
from dataclasses import dataclass, field
from statistics import quantiles
from typing import TYPE_CHECKING

from benchmarks.overload.connection import Call, Connection

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["DEADLINE_S", "Outcome", "apply_load"]

DEADLINE_S = 5.0
OK = "0"
REFUSED_STREAM = "reset, 7"
IN_QUEUE, IN_FLIGHT = "late, not sent", "late, sent"


@dataclass
class Outcome:
    """The outcomes of the calls that ended within the measured time."""

    seconds: float = 0.0
    counts: Counter[str] = field(default_factory=Counter)
    """Calls by the code of their status, or by where their deadline found them."""
    ok_ms: list[float] = field(default_factory=list)
    """Latencies of answered calls, from the moment they were wanted, in milliseconds."""
    refused_ms: list[float] = field(default_factory=list)
    """The same of refused calls, from the moment they were sent."""

    @property
    def goodput(self) -> float:
        """Number of answered calls a second."""
        return self.counts[OK] / self.seconds

    def note(self, call: Call, code: str, now: float) -> None:
        """Count a call that has ended."""
        self.counts[code] += 1
        if code == OK:
            self.ok_ms.append((now - call.wanted_s) * 1e3)
        elif code not in {IN_QUEUE, IN_FLIGHT}:
            self.refused_ms.append((now - call.sent_s) * 1e3)


class _Client:
    """A connection, and the calls that wait because of the server's limit of open streams."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.queue: deque[Call] = deque()

    def step(self, now: float, note: Callable[[Call, str, float], None], max_open: int) -> None:
        while self.queue and self.queue[0].wanted_s + DEADLINE_S <= now:
            note(self.queue.popleft(), IN_QUEUE, now)
        opened = self.connection.open
        while opened and (call := next(iter(opened.values()))).wanted_s + DEADLINE_S <= now:
            self.connection.cancel(call)
            note(call, IN_FLIGHT, now)
        while self.queue and len(opened) < min(max_open, self.connection.max_streams):
            call = self.queue.popleft()
            call.sent_s = now
            self.connection.start(call, call.wanted_s + DEADLINE_S - now)
        for call, code in self.connection.pump():
            if code == REFUSED_STREAM and not call.is_second:  # as gRPC's clients do
                call.is_second = True
                self.queue.appendleft(call)
            else:
                note(call, code, time.monotonic())


def apply_load(
    connect: Callable[[], Connection],
    num_connections: int,
    rate: float | None,
    *,
    warm_up_s: float,
    seconds: float,
    max_open: int = 1 << 30,
) -> Outcome:
    """Make ``rate`` calls a second for some time; None means as many as ``max_open`` permits.

    ``max_open``: most open calls of a connection, besides the server's own limit.
    """
    clients = [_Client(connect()) for _ in range(num_connections)]
    outcome, made = Outcome(), 0
    began = time.monotonic()
    measured_from, ends = began + warm_up_s, began + warm_up_s + seconds

    def note(call: Call, code: str, now: float) -> None:
        if measured_from <= now < ends:
            outcome.note(call, code, now)

    poll = select.epoll()
    for client in clients:
        poll.register(client.connection.socket, select.EPOLLIN)
    while (now := time.monotonic()) < ends:
        if rate is None:
            for client in clients:
                missing = max_open - len(client.connection.open) - len(client.queue)
                client.queue.extend(Call(now) for _ in range(missing))
        else:
            due = int((now - began) * rate)
            for number in range(made, due):
                client = clients[number % len(clients)]
                client.queue.append(Call(began + number / rate))
            made = due
        for client in clients:
            client.step(now, note, max_open)
        poll.poll(0.0005)
    poll.close()
    for client in clients:
        client.connection.close()
    outcome.seconds = seconds
    return outcome


def p99(values: list[float]) -> float:
    """Return the 99th percentile; nan for fewer than two values."""
    return quantiles(values, n=100)[98] if len(values) > 1 else float("nan")
