"""What became of each request: recorded in compact arrays, merged over processes.

Times are seconds, of the clock time.monotonic(), which all processes of a machine share.
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

__all__ = ["ErrorKind", "Recorder", "Samples"]


@dataclass(frozen=True, slots=True)
class ErrorKind:
    """One way in which requests failed."""

    code: str
    """Name of the gRPC status, or of the exception where there was none; ``NOT_SENT`` for those
    that waited too long for others to come back."""
    reason: str
    """The server's constant, such as ``QUEUE_FULL``; empty if it gave none."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Samples:
    """What a run measured. Requests of the warm-up are in none of it but `arrived`."""

    sent: int
    """Requests that were due."""
    answers: Floats
    """(answered, 6): start in seconds after the measurement's, latency in seconds, tokens, and the
    server's queue_ms, compute_ms and batch_size."""
    failures: Floats
    """(failed, 3): start and latency as of answers, index into error_kinds."""
    error_kinds: tuple[ErrorKind, ...]
    """Every way in which requests failed."""
    error_messages: tuple[str, ...]
    """Of each, the message of one."""
    lags: Floats
    """(started,): seconds from when each request could be sent to when it was."""
    held_back: int
    """Requests that were due but waited for others to come back, as too many were under way."""
    arrived: int
    """Answers that came in elapsed_s, also to requests of the warm-up."""
    arrived_tokens: int
    """Queries in them."""
    elapsed_s: float
    """How long the measurement was: as planned, or, of a number of requests, to the last answer."""
    cpu_s: tuple[float, ...]
    """Processor time that each process took in that time."""
    is_stopped: bool
    """Whether it was ended early."""

    @property
    def unfinished(self) -> int:
        """Requests that were neither answered nor failed when the run was stopped."""
        return self.sent - len(self.answers) - len(self.failures)

    @classmethod
    def merged(cls, parts: Sequence[Samples]) -> Samples:
        """Put together what several processes measured at the same time."""
        known: dict[ErrorKind, str] = {}
        for part in parts:
            known = dict(zip(part.error_kinds, part.error_messages, strict=True)) | known
        kinds = tuple(known)
        return cls(
            sent=sum(part.sent for part in parts),
            answers=np.concatenate([part.answers for part in parts]),
            failures=np.concatenate([_renumbered(part, kinds) for part in parts]),
            error_kinds=kinds,
            error_messages=tuple(known.values()),
            lags=np.concatenate([part.lags for part in parts]),
            held_back=sum(part.held_back for part in parts),
            arrived=sum(part.arrived for part in parts),
            arrived_tokens=sum(part.arrived_tokens for part in parts),
            elapsed_s=max(part.elapsed_s for part in parts),
            cpu_s=tuple(seconds for part in parts for seconds in part.cpu_s),
            is_stopped=any(part.is_stopped for part in parts),
        )


def _renumbered(part: Samples, kinds: tuple[ErrorKind, ...]) -> Floats:
    failures = part.failures.copy()
    numbers = np.array([kinds.index(kind) for kind in part.error_kinds], dtype=np.float64)
    failures[:, 2] = numbers[failures[:, 2].astype(np.intp)]
    return failures


@dataclass(slots=True)
class Recorder:
    """Grows while a run lasts: one call and 48 bytes for each answer."""

    origin: float
    """Where the measurement starts; what was due before is warm-up, and not recorded."""
    slow_s: float = math.inf
    end: float = math.inf
    """Where it ends: later answers have a latency, but are no throughput."""
    sent: int = 0
    answered_count: int = 0
    failed_count: int = 0
    slow_count: int = 0
    """Answers that took longer than slow_s."""
    held_back: int = 0
    arrived: int = 0
    arrived_tokens: int = 0
    last_arrival: float = 0.0
    _answers: array[float] = field(default_factory=lambda: array("d"))
    _failures: array[float] = field(default_factory=lambda: array("d"))
    _lags: array[float] = field(default_factory=lambda: array("d"))
    _messages: dict[ErrorKind, str] = field(default_factory=dict)

    def started(self, due: float, lag: float) -> None:
        """Note that a request starts, `lag` after it could have."""
        if due >= self.origin:
            self._lags.append(lag)

    def answered(self, due: float, ended: float, tokens: int, execution: Execution) -> None:
        """Note an answer, with its latency from when the request was due."""
        if self.origin <= ended <= self.end:
            # The server's work on requests of the warm-up fell into the measurement too.
            self.arrived += 1
            self.arrived_tokens += tokens
            self.last_arrival = ended  # answers come in the order of their ends
        if due < self.origin:
            return
        latency = ended - due
        self.answered_count += 1
        self.slow_count += latency > self.slow_s
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

    def failed(self, due: float, ended: float, error: PolyheadError) -> None:
        """Note a failure; its latency is kept apart from those of answers."""
        if due < self.origin:
            return
        kind = ErrorKind(error.code or type(error).__name__, error.reason)
        self._messages.setdefault(kind, str(error))
        self.failed_count += 1
        index = list(self._messages).index(kind)
        self._failures.extend((due - self.origin, ended - due, index))

    def samples(self, *, ended: float, cpu_s: float, is_stopped: bool) -> Samples:
        """Give what was recorded, of a run that ended then."""
        return Samples(
            sent=self.sent,
            answers=np.array(self._answers).reshape(-1, 6),
            failures=np.array(self._failures).reshape(-1, 3),
            error_kinds=tuple(self._messages),
            error_messages=tuple(self._messages.values()),
            lags=np.array(self._lags),
            held_back=self.held_back,
            arrived=self.arrived,
            arrived_tokens=self.arrived_tokens,
            elapsed_s=max(ended - self.origin, 0.0),
            cpu_s=(cpu_s,),
            is_stopped=is_stopped,
        )
