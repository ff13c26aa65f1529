"""Makes the pages of the metrics port: one at a time, with pauses, for all that wait together.

A page takes 20 ms of the time in which calls are answered. Without pauses a client that asks again
and again took two thirds of it, and others left no calls answered at all.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping

    from prometheus_client.core import Metric

    from polyhead_server.process.metrics.snapshot import Snapshot

__all__ = ["Pages"]


class Pages:
    """Makes pages with the present numbers."""

    def __init__(
        self,
        take_snapshots: Callable[[], Awaitable[Mapping[str, Snapshot]]],
        *,
        max_share: float,
    ) -> None:
        """``take_snapshots``: returns the argument of families_of.

        ``max_share``: the largest share of a CPU's time that making pages may take.
        """
        self._take_snapshots = take_snapshots
        self._max_share = max_share
        self._turn = asyncio.Lock()
        self._free_at = 0.0
        """Monotonic time from which on another page may be made."""
        self._next: dict[str, asyncio.Task[bytes]] = {}
        """By content type: the page that is not begun yet."""

    async def page(self, accept: str) -> tuple[str, bytes]:
        """Return the content type and the body of a page that is begun after this call.

        ``accept``: the request's header, which selects the format.
        """
        from prometheus_client.exposition import choose_encoder

        encode, content_type = choose_encoder(accept)
        page = self._next.get(content_type)
        if page is None:
            page = asyncio.create_task(self._make(encode, content_type))
            self._next[content_type] = page
        return content_type, await asyncio.shield(page)

    async def _make(self, encode: Callable[[_Registry], bytes], content_type: str) -> bytes:
        async with self._turn:
            await asyncio.sleep(self._free_at - time.monotonic())
            del self._next[content_type]
            snapshots = await self._take_snapshots()
            # in a thread, because it takes milliseconds with many models
            body, cpu_s = await asyncio.to_thread(_format, snapshots, encode)
            self._free_at = time.monotonic() + cpu_s * (1 / self._max_share - 1)
            return body


class _Registry(NamedTuple):
    """The collector that prometheus_client formats."""

    metrics: list[Metric]

    def collect(self) -> Iterable[Metric]:
        return self.metrics


def _format(
    snapshots: Mapping[str, Snapshot], encode: Callable[[_Registry], bytes]
) -> tuple[bytes, float]:
    """Return a page, and the seconds of CPU time that it took."""
    from polyhead_server.process.metrics.families import families_of

    began = time.thread_time()
    body = encode(_Registry(list(families_of(snapshots))))
    return body, time.thread_time() - began
