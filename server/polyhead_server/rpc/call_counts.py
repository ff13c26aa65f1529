"""Counts of calls by method, code and reason. Only the event loop changes them.

The number of labels is bounded, because callers cannot choose them: methods are those of the
services, codes and reasons are constants, and callers are named by the tokens that the server
accepts.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import NamedTuple

from polyhead_server.histogram import SECONDS, Histogram

__all__ = ["CallCounts", "MethodCounts", "Refusal"]

_UNKNOWN = "unknown"
_OTHER = "other"
_MAX_CALLERS = 1000


class Refusal(NamedTuple):
    """The labels of a counter of refused requests."""

    method: str
    """Service/Method."""
    code: str
    """Name of the gRPC code, such as RESOURCE_EXHAUSTED."""
    reason: str
    """Reason in the error's details, such as OVERLOADED; empty if there is none."""


@dataclass(slots=True)
class MethodCounts:
    """Counts of one method's calls. A stream is one call, however many requests it has."""

    service: str
    method: str
    kind: str
    """unary, server_stream or bidi_stream."""
    num_started: int = 0
    num_read: int = 0
    """Messages that calls have read after their begin."""
    num_written: int = 0
    """Messages that calls have written before their end."""
    handled: Counter[str] = field(default_factory=lambda: Counter({"OK": 0}))
    """Ended calls by the name of their code."""
    seconds: Histogram = field(default_factory=lambda: Histogram(SECONDS))
    """Durations of ended calls."""
    name: str = field(init=False)
    """Service/Method."""

    def __post_init__(self) -> None:
        self.name = f"{self.service}/{self.method}"

    @property
    def num_received(self) -> int:
        """Number of received messages. A call that reads none has received one at its begin."""
        return self.num_read if self.kind == "bidi_stream" else self.num_started

    @property
    def num_sent(self) -> int:
        """Number of sent messages. A call that writes none sends one at its end, if it succeeds."""
        return self.handled["OK"] if self.kind == "unary" else self.num_written


@dataclass(slots=True)
class CallCounts:
    """Counts of all calls of a server."""

    methods: dict[str, MethodCounts] = field(default_factory=dict)
    """By Service/Method."""
    unknown: MethodCounts = field(default_factory=lambda: MethodCounts(_UNKNOWN, _UNKNOWN, "unary"))
    """Calls to methods that do not exist, in one count, because callers choose the names."""
    refused: Counter[Refusal] = field(default_factory=Counter)
    """Refused and cancelled requests. The requests of a stream are counted one by one."""
    callers: Counter[str] = field(default_factory=Counter)
    """Ended calls by the name of their caller, if it has one."""

    def add_method(self, service: str, method: str, kind: str) -> MethodCounts:
        """Add the counts of a method, which begin at 0."""
        counts = MethodCounts(service, method, kind)
        self.methods[counts.name] = counts
        return counts

    def of_method(self, name: str) -> MethodCounts:
        """Return the counts of Service/Method, or of unknown methods."""
        return self.methods.get(name, self.unknown)

    def add_caller(self, name: str) -> None:
        """Count a call of a named caller.

        Names may change while the server runs, so only the first thousand have their own counts.
        """
        has_count = name in self.callers or len(self.callers) < _MAX_CALLERS
        self.callers[name if has_count else _OTHER] += 1
