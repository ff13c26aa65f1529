"""The versions that the repository has, loaded or not."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from polyhead_server.errors import ModelFileError
from polyhead_server.repository.load_threads import LoadThreads

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from polyhead_server.repository.source import ModelSource

__all__ = ["OnDisk"]

_TIMEOUT_S, _MAX_ABANDONED = 5.0, 4


class OnDisk:
    """Reads the versions of the source on request; simultaneous callers share one read."""

    def __init__(self, source: ModelSource) -> None:
        self._source = source
        self._threads = LoadThreads(_TIMEOUT_S, _MAX_ABANDONED)
        self._look: asyncio.Task[Mapping[str, Sequence[int]]] | None = None

    async def versions(self) -> Mapping[str, Sequence[int]]:
        """Return each model's versions, by name; none if they cannot be read in time."""
        if self._look is None or self._look.done():
            self._look = asyncio.create_task(self._read())
        return await asyncio.shield(self._look)

    async def _read(self) -> Mapping[str, Sequence[int]]:
        try:
            return await self._threads.run(self._source.versions)
        except (OSError, ModelFileError):
            return {}
