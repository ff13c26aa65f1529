"""Requests of a stream that take less time than handing them to a thread would.

They run on the event loop, several at once; those of one message that are alike, as one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from polyhead_server.scheduling.job import AttendJob
from polyhead_server.services.attention.alike_requests import AlikeRequests
from polyhead_server.services.stream_session import MESSAGE_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterator
    from collections.abc import Set as AbstractSet

    from polyhead_server.codec.request import StreamedRequest
    from polyhead_server.codec.response import Reply
    from polyhead_server.scheduling.scheduler import Scheduler
    from polyhead_server.services.attention.stream_messages import StreamedRun

__all__ = ["TinyRequest", "TinyRequests"]

_INLINE_MULTIPLY_ADDS, _MAX_AT_ONCE = 16_000_000, 256
"""What may be run together, some milliseconds, before others get a turn."""
_SOLO_MULTIPLY_ADDS = 1_000_000
"""What a request is counted as at least that shares its run with no other."""
_HALVED_MULTIPLY_ADDS = 2_000_000
"""Of so much work, or more, half is answered first where its caller awaits nothing else, and so has
something to do meanwhile. One AsyncClient got 1.35 times the answers with 8 callers, and 1.45 times
with 16 (16 tokens of width 64). Not more than once: with 64 callers, parts that were halved each
time they came again gave 0.73 times the answers."""
_REPLY_HEAD_BYTES = 1 << 10
"""More than a reply takes beside its numbers."""


class TinyRequest(NamedTuple):
    """A request, or several that are alike, and what runs it."""

    request: StreamedRequest | AlikeRequests
    job: AttendJob[Reply]


class TinyRequests:
    """Those of one stream that wait to be run, oldest first."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self._waiting: dict[bytes, TinyRequest] = {}
        """By their ids; of those that are alike each has the same."""
        self._multiply_adds = 0
        self.num_bytes = 0
        self.is_halving = False
        """Whether half is to be run, and answered, first, if it is much."""

    def __len__(self) -> int:
        return len(self._waiting)

    def __contains__(self, stream_id: bytes) -> bool:
        return stream_id in self._waiting

    def add(
        self,
        request: StreamedRequest,
        job: AttendJob[Reply],
        run: StreamedRun,
        index: int,
        taken: AbstractSet[bytes],
    ) -> int:
        """Add the request that is at this index of a run, with those after it that are alike.

        ``taken``: the ids of other requests of the stream. Gives how many were added.
        """
        together = self._together(request, job, run, index)
        if together is None or not self._are_free(together.ids, taken):
            self._wait(TinyRequest(request, job))
            return 1
        self._wait(_like(job, together))
        return len(together.ids)

    def cancel(self, stream_id: bytes) -> None:
        """Forget one of them."""
        request, job = self._forget(stream_id)
        if isinstance(request, AlikeRequests) and len(request.ids) > 1:
            self._wait(_like(job, request.without(stream_id)))

    def run(self) -> Iterator[tuple[TinyRequest, Reply | Exception]]:
        """Run those that have waited longest, as many as may run at once; give what they gave."""
        enough = self._part(self._multiply_adds)
        self.is_halving = False
        chosen: list[TinyRequest] = []
        num_requests = multiply_adds = 0
        while self._waiting and num_requests < _MAX_AT_ONCE:
            request, job = tiny = self._forget(next(iter(self._waiting)))
            chosen.append(tiny)
            num_requests += len(request.ids)
            least = _SOLO_MULTIPLY_ADDS if job.batch_key is None else 0
            multiply_adds += max(job.multiply_adds, least)
            if multiply_adds >= enough:
                break
        return self._results(chosen)

    def _results(
        self, chosen: list[TinyRequest]
    ) -> Iterator[tuple[TinyRequest, Reply | Exception]]:
        results = self._scheduler.run_inline([job for _, job in chosen])
        for tiny, result in zip(chosen, results, strict=True):
            request, job = tiny
            if isinstance(result, Exception) and len(request.ids) > 1:
                # what is wrong with one is nothing to the others
                assert isinstance(request, AlikeRequests)
                yield from self._results([_like(job, one) for one in request.split()])
            else:
                yield tiny, result

    def _together(
        self, request: StreamedRequest, job: AttendJob[Reply], run: StreamedRun, index: int
    ) -> AlikeRequests | None:
        # it comes alone, shares no run, or may be no plain one
        if run.records is None or job.batch_key is None or job.plan.whole is None:
            return None
        cost = max(job.multiply_adds, 1)
        part = self._part(len(run.ids) * cost)
        reply_bytes = job.plan.size.nbytes + _REPLY_HEAD_BYTES
        return AlikeRequests.of(
            request,
            run,
            index,
            most=min(-(-part // cost), MESSAGE_BYTES // reply_bytes),
            multiple=job.plan.num_per_run(job.max_batch_tokens),
        )

    def _are_free(self, ids: list[bytes], taken: AbstractSet[bytes]) -> bool:
        """Whether each is the id of one request alone."""
        others = (self._waiting.keys(), taken)
        return len(set(ids)) == len(ids) and all(each.isdisjoint(ids) for each in others)

    def _part(self, multiply_adds: int) -> int:
        """Give how much of so much work is to be run before what is done is sent."""
        if self.is_halving and multiply_adds >= _HALVED_MULTIPLY_ADDS:
            multiply_adds //= 2
        return min(multiply_adds, _INLINE_MULTIPLY_ADDS)

    def _wait(self, tiny: TinyRequest) -> None:
        self._waiting.update(dict.fromkeys(tiny.request.ids, tiny))
        self._multiply_adds += tiny.job.multiply_adds
        self.num_bytes += tiny.request.size

    def _forget(self, stream_id: bytes) -> TinyRequest:
        """Take out the request of this id, with those that are one with it."""
        tiny = self._waiting[stream_id]
        for own in tiny.request.ids:
            del self._waiting[own]
        self._multiply_adds -= tiny.job.multiply_adds
        self.num_bytes -= tiny.request.size
        return tiny


def _like(job: AttendJob[Reply], requests: AlikeRequests) -> TinyRequest:
    """Let these be run as the job runs one of them, or all."""
    count = len(requests.ids)
    return TinyRequest(
        requests, AttendJob(job.model, job.plan, job.batch_key, requests, job.deadline, count=count)
    )
