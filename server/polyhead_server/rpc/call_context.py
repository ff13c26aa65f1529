"""What is known of a call: its method, its deadline, its caller, and the ids it is found by."""

from __future__ import annotations

import re
import uuid
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from polyhead_server.call import RunTimes
    from polyhead_server.deadline import Deadline

    Metadata = Sequence[tuple[str, str | bytes]] | None

__all__ = ["CallContext", "Held", "Logged"]

_REQUEST_ID = "x-request-id"
_MAX_ID_CHARS = 128
_TRACE_PARENT = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}")


class Logged(Protocol):
    """A request that has fields for the log."""

    times: RunTimes | None
    """When it was run; None before."""

    def log_fields(self) -> dict[str, object]:
        """Return the fields."""


class Held(Protocol):
    """Something that a call holds, such as a part of the server's memory."""

    def release(self) -> None:
        """Give it back."""


_H = TypeVar("_H", bound=Held)


@dataclass(slots=True, eq=False)
class CallContext:
    """What a method knows about its call."""

    name: str
    """Service/Method."""
    deadline: Deadline
    """When the caller stops waiting."""
    caller: str = ""
    """Who calls: the caller's name, or its connection. Callers have their turns one after the
    other."""
    peer: str = ""
    """Who has a share of the server's memory: the caller's name, or the address that it has."""
    request: Logged | None = None
    """The decoded request, which the method sets for the log."""
    log_fields: dict[str, object] = field(default_factory=dict)
    """Further fields that the method adds to the call's log line."""
    caller_name: str = ""
    """Name of the caller for log, metrics and traces; empty: not known. What recognises callers
    sets it. It must be one of a bounded set of names, never a text that the caller chose."""
    read_metadata: Callable[[], Metadata] = lambda: None
    """Returns the metadata that the caller sent; called for calls that are logged or traced."""
    _held: dict[Held, None] = field(default_factory=dict)
    _request_id: str = ""
    _trace_id: str | None = None

    def for_message(self) -> CallContext:
        """Make the context of one message of a stream."""
        return CallContext(
            self.name,
            self.deadline,
            self.caller,
            self.peer,
            caller_name=self.caller_name,
            read_metadata=self.read_metadata,
        )

    def hold(self, held: _H) -> _H:
        """Return what is to be released when the last byte of the call is written, or before."""
        self._held[held] = None
        return held

    def let_go(self, held: Held) -> None:
        """Release what is held before the call ends."""
        self._held.pop(held, None)
        held.release()

    def release(self) -> None:
        """Release all that is held."""
        for held in self._held:
            held.release()
        self._held.clear()

    @property
    def request_id(self) -> str:
        """The id that the caller or a proxy sent as x-request-id, or else a new one."""
        if not self._request_id:
            self._request_id = self._sent(_REQUEST_ID)[:_MAX_ID_CHARS] or uuid.uuid4().hex
        return self._request_id

    @property
    def trace_id(self) -> str:
        """The id of the trace that the call belongs to, in hex; empty: none."""
        if self._trace_id is None:
            match = _TRACE_PARENT.fullmatch(self._sent("traceparent"))
            self._trace_id = match[1] if match else ""
        return self._trace_id

    @trace_id.setter
    def trace_id(self, trace_id: str) -> None:
        self._trace_id = trace_id

    def metadata(self) -> Sequence[tuple[str, str | bytes]]:
        """Return the metadata that the caller sent."""
        return self.read_metadata() or ()

    def _sent(self, key: str) -> str:
        """Return a text that the caller sent as metadata; empty: it did not."""
        values = (value for name, value in self.metadata() if name == key)
        value = next(values, "")
        return value if isinstance(value, str) else ""
