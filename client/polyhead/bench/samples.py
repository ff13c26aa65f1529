"""The outcome of each request, recorded in compact arrays and merged over processes.

Times are seconds of the clock time.monotonic(), which all processes of a machine share.
"""

from __future__ import annotations

import math
from array import array
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from polyhead.errors import PolyheadError
    from polyhead.results import Execution

    Floats: TypeAlias = NDArray[np.float64]

__all__ = ["ErrorType", "Recorder", "Samples"]


@dataclass(frozen=True, slots=True)
class ErrorType:
    """A gRPC status with its reason: failures are counted by these."""

    code: str
    """Name of the gRPC status, or of the exception if there was no status. ``NOT_SENT``: the
    request waited too long because too many others were in flight."""
    reason: str
    """The server's error reason, such as ``QUEUE_FULL``; empty if it sent none."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Samples:
    """The measurements of a run. Only `arrived` and `arrived_tokens` include warm-up requests."""

    sent: int
    """Number of requests that were due."""
    answers: Floats
    """(answered, 6): due time in seconds after the measurement's start, latency in seconds, tokens,
    and the server's queue_ms, compute_ms and batch_size."""
    failures: Floats
    """(failed, 3): due time and latency as in `answers`, index into error_types."""
    error_types: tuple[ErrorType, ...]
    """Every type of error that occurred."""
    error_messages: tuple[str, ...]
    """One message for each of error_types."""
    lags: Floats
    """(started,): seconds by which the generator sent each request later than it could have."""
    held_back: int
    """Number of requests that waited because max_in_flight others were in flight."""
    arrived: int
    """Number of answers that came within elapsed_s, including those to warm-up requests."""
    arrived_tokens: int
    """Number of queries in them."""
    elapsed_s: float
    """The plan's duration; if it gives a number of requests, the time to the last answer."""
    cpu_s: tuple[float, ...]
    """CPU time of each process within elapsed_s."""
    is_stopped: bool
    """Whether the run was ended early."""

    @property
    def unfinished(self) -> int:
        """Number of requests still in flight when the run was stopped."""
        return self.sent - len(self.answers) - len(self.failures)

    @classmethod
    def merged(cls, parts: Sequence[Samples]) -> Samples:
        """Merge the measurements of several processes of the same run."""
        messages: dict[ErrorType, str] = {}
        for part in parts:
            messages = dict(zip(part.error_types, part.error_messages, strict=True)) | messages
        types = tuple(messages)
        return cls(
            sent=sum(part.sent for part in parts),
            answers=np.concatenate([part.answers for part in parts]),
            failures=np.concatenate([_reindexed_failures(part, types) for part in parts]),
            error_types=types,
            error_messages=tuple(messages.values()),
            lags=np.concatenate([part.lags for part in parts]),
            held_back=sum(part.held_back for part in parts),
            arrived=sum(part.arrived for part in parts),
            arrived_tokens=sum(part.arrived_tokens for part in parts),
            elapsed_s=max(part.elapsed_s for part in parts),
            cpu_s=tuple(seconds for part in parts for seconds in part.cpu_s),
            is_stopped=any(part.is_stopped for part in parts),
        )


def _reindexed_failures(part: Samples, types: tuple[ErrorType, ...]) -> Floats:
    failures = part.failures.copy()
    indices = np.array(
        [types.index(error_type) for error_type in part.error_types], dtype=np.float64
    )
    failures[:, 2] = indices[failures[:, 2].astype(np.intp)]
    return failures


@dataclass(slots=True)
class Recorder:
    """Records outcomes during a run: 48 bytes for each answer."""

    origin: float
    """Start of the measurement; requests due before it are warm-up and not recorded."""
    slow_after_s: float = math.inf
    end: float = math.inf
    """End of the measurement; later answers count for latency, but not for throughput."""
    sent: int = 0
    num_answered: int = 0
    num_failed: int = 0
    num_slow: int = 0
    """Number of answers slower than slow_after_s."""
    held_back: int = 0
    arrived: int = 0
    arrived_tokens: int = 0
    last_arrival: float = 0.0
    _answers: array[float] = field(default_factory=lambda: array("d"))
    _failures: array[float] = field(default_factory=lambda: array("d"))
    _lags: array[float] = field(default_factory=lambda: array("d"))
    _messages: dict[ErrorType, str] = field(default_factory=dict)

    def record_start(self, due: float, lag: float) -> None:
        """Record that a request is sent, `lag` seconds later than it could have been."""
        if due >= self.origin:
            self._lags.append(lag)

    def record_answer(self, due: float, ended: float, tokens: int, execution: Execution) -> None:
        """Record an answer. Its latency counts from when the request was due."""
        if self.origin <= ended <= self.end:
            # Warm-up requests count too, because the server worked on them in the measurement.
            self.arrived += 1
            self.arrived_tokens += tokens
            self.last_arrival = ended  # called in the order of arrival
        if due < self.origin:
            return
        latency = ended - due
        self.num_answered += 1
        self.num_slow += latency > self.slow_after_s
        self._answers.extend(
            (
                due - self.origin,
                latency,
                tokens,
                execution.queue_ms,
                execution.compute_ms,
                execution.batch_size,
            )
        )

    def record_failure(self, due: float, ended: float, error: PolyheadError) -> None:
        """Record a failure. Its latency is kept apart from those of answers."""
        if due < self.origin:
            return
        error_type = ErrorType(error.code or type(error).__name__, error.reason)
        self._messages.setdefault(error_type, str(error))
        self.num_failed += 1
        index = list(self._messages).index(error_type)
        self._failures.extend((due - self.origin, ended - due, index))

    def to_samples(self, *, ended: float, cpu_s: float, is_stopped: bool) -> Samples:
        """Return the measurements; the run ended at `ended`."""
        return Samples(
            sent=self.sent,
            answers=np.array(self._answers).reshape(-1, 6),
            failures=np.array(self._failures).reshape(-1, 3),
            error_types=tuple(self._messages),
            error_messages=tuple(self._messages.values()),
            lags=np.array(self._lags),
            held_back=self.held_back,
            arrived=self.arrived,
            arrived_tokens=self.arrived_tokens,
            elapsed_s=max(ended - self.origin, 0.0),
            cpu_s=(cpu_s,),
            is_stopped=is_stopped,
        )
