"""Requests of one message of a stream that are of one form: read, run and answered as one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from polyhead_server.codec.response import streamed_alike, write_reply

if TYPE_CHECKING:
    from polyhead_server.call import Arrays, AttentionCall, AttentionOutputs, Timing
    from polyhead_server.codec.request import StreamedRequest
    from polyhead_server.codec.response import Reply
    from polyhead_server.engine.runtime import Model
    from polyhead_server.services.attention.stream_messages import StreamedRun

__all__ = ["AlikeRequests"]


class AlikeRequests:
    """Requests that differ in nothing but their ids and numbers, and have no names of their own."""

    __slots__ = ("_columns", "call", "ids")

    def __init__(
        self, call: AttentionCall, ids: list[bytes], columns: dict[str, list[bytes]]
    ) -> None:
        self.call = call
        """What each of them asks for."""
        self.ids = ids
        """As they were written."""
        self._columns = columns
        """Of each tensor the elements, by its name, as each request has them."""

    @classmethod
    def of(
        cls, first: StreamedRequest, run: StreamedRun, index: int, *, most: int, multiple: int
    ) -> AlikeRequests | None:
        """Find those of a run that are as its request ``index`` is, ``first``, and come next to it.

        With it there are ``most``, or fewer, and if more than ``multiple``, a multiple of that.
        None: there are none, or they cannot be read together.
        """
        spans = first.tensor_spans
        if run.records is None or spans is None or first.request_id:
            return None
        begin = run.call_span[0]
        spans = {name: (begin + start, begin + end) for name, (start, end) in spans.items()}
        alike = run.records.part(index, max(most, 1)).like_first((run.id_span, *spans.values()))
        count = alike.num_records
        if count > multiple:
            count -= count % multiple
        if count < 2:
            return None
        alike = alike.part(0, count)
        columns = {name: alike.column(span) for name, span in spans.items()}
        return cls(first.call, run.ids[index : index + count], columns)

    @property
    def size(self) -> int:
        """In bytes, nearly."""
        return sum(len(column[0]) for column in self._columns.values()) * len(self.ids)

    def arrays(self) -> Arrays:
        """Make the arrays of all of them, one after the other."""
        count = len(self.ids)
        return {
            name: layout.times(count).read(b"".join(self._columns[name]))
            for _, name, layout in self.call.tensors
        }

    def reply(self, model: Model, outputs: AttentionOutputs, timing: Timing) -> Reply:
        """Write an AttendStreamResponse with their replies."""
        reply = write_reply(self.call, "", model, outputs, timing, count=len(self.ids))
        return streamed_alike(self.ids, reply)

    def split(self) -> list[AlikeRequests]:
        """Give each of them on its own."""
        return [self._at([index]) for index in range(len(self.ids))]

    def without(self, own_id: bytes) -> AlikeRequests:
        """Give those that are left without one of them."""
        return self._at([index for index, own in enumerate(self.ids) if own != own_id])

    def log_fields(self) -> dict[str, object]:
        """What to tell of each in the log."""
        return {"request_id": "", "model": self.call.model}

    def _at(self, indices: list[int]) -> AlikeRequests:
        ids = [self.ids[index] for index in indices]
        columns = {
            name: [column[index] for index in indices] for name, column in self._columns.items()
        }
        return AlikeRequests(self.call, ids, columns)
