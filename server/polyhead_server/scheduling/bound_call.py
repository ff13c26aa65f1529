"""Tiny calls of a form that has been answered before: from bytes to bytes in a few steps.

Their run takes less time than what all other calls go through, step by step. With this a server
takes 0.83 times the CPU time for each, or 0.90 with one in flight (10 tokens of width 6, weights).
Calls of either protocol: what of them varies is the numbers, and the rest is compared as bytes.
They are answered before anything else is done, so none of them waits, and none takes room.
What has an id, or is unusual in any way, goes the road of all others.
"""

from __future__ import annotations

import time
from contextlib import suppress
from typing import TYPE_CHECKING, Protocol

from polyhead.v1 import attention_pb2 as pb
from polyhead.wire.template import struct_beside
from polyhead_server.call import AttentionOutputs, Timing
from polyhead_server.codec.response import written_times
from polyhead_server.engine.statistics import RequestTiming, RunTimestamps
from polyhead_server.planning.embeddings import is_finite

if TYPE_CHECKING:
    from polyhead.wire.template import Span
    from polyhead_server.call import AttentionCall
    from polyhead_server.codec.response import Reply
    from polyhead_server.engine.runtime import Model
    from polyhead_server.planning.plan_cache import Form
    from polyhead_server.repository.repository import Repository
    from polyhead_server.rpc.handlers import CallContext

__all__ = ["TinyForm", "TinyForms"]

_FORMS_OF_A_LENGTH = 4
_MAX_SKELETON_BYTES = 4096
_MAX_BYTES = 16 << 20
"""Of memory, for the forms of one method."""
_FORM_BYTES = 8 << 10
"""What a form takes beside its arrays, at most."""


class TinyRequest(Protocol):
    """A request of any protocol that has a single reply."""

    call: AttentionCall
    request_id: str
    skeleton: bytes
    reply_has_times: bool
    """Whether it ends with how long the call took (written_times)."""

    @property
    def tensor_spans(self) -> dict[str, Span] | None:
        """Where its tensors' numbers lie; None: not in the bytes that came."""

    def write(self, model: Model, outputs: AttentionOutputs, timing: Timing) -> Reply:
        """Write a reply in parts; those with numbers are the outputs, as they lie."""


class TinyForm:
    """Calls that differ in the numbers of their query only, and are runs of the compact graph."""

    __slots__ = (
        "_answered",
        "_beside",
        "_has_times",
        "_kept",
        "_model",
        "_numbers",
        "_parts",
        "_run",
        "_span",
        "nbytes",
    )

    def __init__(
        self, model: Model, request: TinyRequest, data: bytes, span: Span, *, is_fused: bool
    ) -> None:
        """Note what calls have in common with one that is written in ``data``, and their replies.

        ``span``: where its query's numbers lie. ``is_fused``: what its replies say of that.
        """
        call, self._model = request.call, model
        self._answered = [RequestTiming(call.batch_size, 0.0)]
        self._beside, self._span = struct_beside(len(data), (span,)), slice(*span)
        self._kept = self._beside.unpack_from(data)
        names = ["output"] if call.weights is None else ["output", "attn_weights"]
        self._run = model.bind_compact(names, call.query.shape)
        self._numbers = self._run.query.data.cast("B")
        output, attn_weights = (*self._run.outputs, None)[:2]
        outputs = AttentionOutputs(output, attn_weights, None, is_fused)
        reply = request.write(model, outputs, Timing(0.0, 0.0, call.batch_size))
        self._parts = reply.parts  # every run writes anew what those with numbers show
        self._has_times = request.reply_has_times
        if self._has_times:
            times = written_times(0.0, 0.0)
            self._parts[-1:] = [self._parts[-1][: -len(times)], times]
        self.nbytes = 2 * len(data) + reply.size + _FORM_BYTES
        """The memory that it takes, about."""

    @classmethod
    def of(cls, form: Form, request: TinyRequest, data: bytes) -> TinyForm | None:
        """Make the form of a request; None: its like go the road of all others."""
        call, whole, spans = form.plan.call, form.plan.whole, request.tensor_spans
        if whole is None or not whole.is_short or not form.model.has_compact_graph:
            return None
        if len(request.skeleton) > _MAX_SKELETON_BYTES:  # with fields that nobody knows
            return None
        if spans is None or request.request_id or form.plan.allow_non_finite:
            return None
        dtypes = {call.query.dtype, call.output_dtype, call.weights and call.weights.dtype}
        is_float = dtypes <= {pb.DATA_TYPE_FLOAT, None}
        if not is_float or call.query.ndim != 3 or call.batch_size > whole.max_sequences:
            return None
        return cls(form.model, request, data, spans["query"], is_fused=whole.is_fused)

    def has(self, data: bytes) -> bool:
        """Whether this is such a call; of its length it is."""
        return self._beside.unpack_from(data) == self._kept

    def answer(self, data: bytes) -> bytes | None:
        """Run it, and write its reply; None: it has a NaN or an infinity, or fails."""
        started = time.monotonic()
        self._numbers[:] = data[self._span]
        if not is_finite(self._run.query):
            return None
        begun = time.monotonic()
        try:
            self._run()
        except Exception:  # noqa: BLE001 - fails again on the road of all others, which says how
            return None
        ended = time.monotonic()
        if self._has_times:
            self._parts[-1] = written_times(0.0, (ended - begun) * 1e3)
        reply = b"".join(self._parts)
        times = RunTimestamps(started, begun, ended, time.monotonic())
        self._model.statistics.add(len(self._run.query), times, self._answered)
        return reply

    def log_fields(self) -> dict[str, object]:
        """What to tell of each such call in the log."""
        return {"request_id": "", "model": self._model.name}


class TinyForms:
    """Recognises such calls by their bytes, those of one method, and answers them."""

    def __init__(self, repository: Repository) -> None:
        self._repository = repository
        self._generation = repository.generation
        self._known: dict[int, list[TinyForm]] = {}
        """By the length of the calls."""
        self._nbytes = 0
        """The memory that they take."""

    def answer(self, data: bytes, context: CallContext) -> bytes | None:
        """Answer a call that is like one before; None: it goes the road of all others."""
        if self._generation != self._repository.generation:
            self._generation = self._repository.generation
            self._known, self._nbytes = {}, 0
        for form in self._known.get(len(data), ()):
            if form.has(data):
                context.request = form
                return form.answer(data)
        return None

    def remember(self, form: Form, request: TinyRequest, data: bytes) -> None:
        """Take note of a tiny call that has been answered, for those that are like it."""
        alike = self._known.get(len(data), [])
        has_room = len(alike) < _FORMS_OF_A_LENGTH and self._nbytes < _MAX_BYTES
        if not has_room or any(known.has(data) for known in alike):
            return
        with suppress(Exception):  # it has its answer, whatever becomes of the others
            tiny = TinyForm.of(form, request, data)
            if tiny is not None:
                self._known[len(data)] = [*alike, tiny]
                self._nbytes += tiny.nbytes
