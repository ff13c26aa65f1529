"""Which versions of which models lie in the repository's folder, loaded or not."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING

from polyhead_models.names import ModelNameError, check_model_name
from polyhead_server.errors import ModelFileError
from polyhead_server.repository.layout import versions_of
from polyhead_server.repository.load_threads import LoadThreads

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["OnDisk"]

_TIMEOUT_S, _MAX_ABANDONED = 5.0, 4


class OnDisk:
    """Looks at the folder when it is asked; those who ask at the same time share a look."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._threads = LoadThreads(_TIMEOUT_S, _MAX_ABANDONED)
        self._look: asyncio.Task[dict[str, list[int]]] | None = None

    async def versions(self) -> dict[str, list[int]]:
        """Return each model's versions, by name; none if the folder cannot be read in time."""
        if self._look is None or self._look.done():
            self._look = asyncio.create_task(self._read())
        return await asyncio.shield(self._look)

    async def _read(self) -> dict[str, list[int]]:
        try:
            return await self._threads.run(partial(_read, self._root))
        except (OSError, ModelFileError):
            return {}


def _read(root: Path) -> dict[str, list[int]]:
    found = {}
    for folder in sorted(root.iterdir()):
        try:
            check_model_name(folder.name)
            if versions := versions_of(folder):
                found[folder.name] = versions
        except (OSError, ModelNameError):  # loading says what is wrong
            continue
    return found
