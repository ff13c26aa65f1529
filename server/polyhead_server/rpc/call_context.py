"""The context of a call: its method, deadline, caller and ids, and what it releases at its end."""

from __future__ import annotations

import re
import uuid
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, TypeVar

from polyhead_server.origin import NO_ORIGIN

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from polyhead_server.call import RunTimes
    from polyhead_server.deadline import Deadline
    from polyhead_server.origin import Origin

    Metadata = Sequence[tuple[str, str | bytes]] | None

__all__ = ["CallContext", "Logged", "Releasable"]

_REQUEST_ID = "x-request-id"
_MAX_ID_CHARS = 128
_TRACE_PARENT = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}")


class Logged(Protocol):
    """A request that has fields for the log."""

    times: RunTimes | None
    """Times of its run; None before the run."""

    def log_fields(self) -> dict[str, object]:
        """Return the fields."""


class Releasable(Protocol):
    """Something that a call has until its end, such as a reservation of memory."""

    def release(self) -> None:
        """Give it back."""


_R = TypeVar("_R", bound=Releasable)


@dataclass(slots=True, eq=False)
class CallContext:
    """The context that a method gets with its request."""

    name: str
    """Service/Method."""
    deadline: Deadline
    """The time when the caller stops waiting."""
    origin: Origin = NO_ORIGIN
    """Whose call it is, for shares of the server's time, places and memory."""
    request: Logged | None = None
    """The decoded request, which the method sets for the log."""
    log_fields: dict[str, object] = field(default_factory=dict)
    """Further fields that the method adds to the call's log line."""
    caller_name: str = ""
    """Name of the caller for log, metrics and traces; empty if it has none. It must be one of a
    bounded set of names, never a text that the caller chose."""
    read_metadata: Callable[[], Metadata] = lambda: None
    """Returns the metadata that the caller sent. Only calls that are logged or traced use it."""
    _unreleased: dict[Releasable, None] = field(default_factory=dict)
    _request_id: str = ""
    _trace_id: str | None = None

    def for_message(self) -> CallContext:
        """Make the context of one message of a stream."""
        return CallContext(
            self.name,
            self.deadline,
            self.origin,
            caller_name=self.caller_name,
            read_metadata=self.read_metadata,
        )

    def release_at_end(self, releasable: _R) -> _R:
        """Release it when the last byte of the call is written. Returns the argument."""
        self._unreleased[releasable] = None
        return releasable

    def release_now(self, releasable: Releasable) -> None:
        """Release it before the call ends."""
        self._unreleased.pop(releasable, None)
        releasable.release()

    def release(self) -> None:
        """Release all that is not yet released."""
        for releasable in self._unreleased:
            releasable.release()
        self._unreleased.clear()

    @property
    def request_id(self) -> str:
        """The id that the caller or a proxy sent as x-request-id, or else a new one."""
        if not self._request_id:
            self._request_id = self._metadata_text(_REQUEST_ID)[:_MAX_ID_CHARS] or uuid.uuid4().hex
        return self._request_id

    @property
    def trace_id(self) -> str:
        """The id of the call's trace, in hex; empty if the call has no trace."""
        if self._trace_id is None:
            match = _TRACE_PARENT.fullmatch(self._metadata_text("traceparent"))
            self._trace_id = match[1] if match else ""
        return self._trace_id

    @trace_id.setter
    def trace_id(self, trace_id: str) -> None:
        self._trace_id = trace_id

    def metadata(self) -> Sequence[tuple[str, str | bytes]]:
        """Return the metadata that the caller sent."""
        return self.read_metadata() or ()

    def _metadata_text(self, key: str) -> str:
        """Return the text of a key in the metadata; empty if the caller did not send it."""
        values = (value for name, value in self.metadata() if name == key)
        value = next(values, "")
        return value if isinstance(value, str) else ""
