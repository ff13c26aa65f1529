"""What was found out about requests of one form, kept for the next of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from polyhead_server.planning.plan import plan_call
from polyhead_server.scheduling.job import AttendJob

if TYPE_CHECKING:
    from collections.abc import Hashable

    from polyhead_server.call import AttentionCall
    from polyhead_server.deadline import Deadline
    from polyhead_server.engine.runtime import Model
    from polyhead_server.planning.plan import CallPlan
    from polyhead_server.repository.repository import Repository
    from polyhead_server.scheduling.job import Request
    from polyhead_server.settings import ServerSettings

__all__ = ["Form", "Forms"]

_T = TypeVar("_T")

_MAX_FORMS = 1024
_MAX_SKELETON_BYTES = 4096
"""Longer ones, with long lists of indices, are not kept."""


class _Request(Protocol):
    """A request of any protocol."""

    skeleton: bytes
    """The same for all requests of one form."""
    call: AttentionCall
    """Set by accept."""

    def read_call(self) -> Any:  # noqa: ANN401 - what it is, only the request knows
        """Read what requests of its form have in common."""

    def accept(self, reading: Any) -> None:  # noqa: ANN401
        """Take what was read, of this request or of another of its form."""


@dataclass(frozen=True, slots=True)
class Form:
    """Requests that differ in nothing but their numbers and ids."""

    model: Model
    plan: CallPlan
    batch_key: Hashable | None
    """What it has in common with other forms whose requests can run together with its own."""
    reading: Any
    """What was read of the first such request."""

    def job(self, request: Request[_T], deadline: Deadline) -> AttendJob[_T]:
        """Make what runs a request of this form."""
        return AttendJob(self.model, self.plan, self.batch_key, request, deadline)


class Forms:
    """Recognises requests by their skeletons, those of one protocol.

    Reading and checking a small request takes 75 us; recognising one, 1 (10 tokens of width 6).
    """

    def __init__(self, repository: Repository, limits: ServerSettings) -> None:
        self._repository = repository
        self._limits = limits
        self._known: dict[bytes, Any] = {}
        self._generation = repository.generation

    def of(self, request: _Request) -> Any:  # noqa: ANN401 - a Form, or what _read gives
        """Find a request's form: it fits its model and the limits, up to its numbers.

        Raises what reading, finding the model and checking raise.
        """
        if self._generation != self._repository.generation:
            self._generation = self._repository.generation
            self._known.clear()
        known = self._known.get(request.skeleton)
        if known is not None:
            request.accept(known.reading)
            return known
        form = self._read(request)
        if len(request.skeleton) <= _MAX_SKELETON_BYTES:
            while len(self._known) >= _MAX_FORMS:
                del self._known[next(iter(self._known))]  # the oldest
            self._known[request.skeleton] = form
        return form

    def _read(self, request: Any) -> Any:  # noqa: ANN401 - of the protocol's own kinds
        """Read a request whose form is not known."""
        reading = request.read_call()
        request.accept(reading)
        call: AttentionCall = request.call
        model = self._repository.get(call.model, call.model_version)
        plan = plan_call(call, model.config, self._limits)
        gains = plan.num_tokens <= model.batching.solo_above_tokens
        batch_key = plan.batch_key if gains else None
        return Form(model, plan, None if batch_key is None else (model, batch_key), reading)
