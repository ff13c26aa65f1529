"""Caches the readings of the last texts and pictures, so that a click does not run all again."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

from polyhead_explorer.reading.catalogue import begin_readings

if TYPE_CHECKING:
    from collections.abc import Mapping

    from polyhead import AsyncClient
    from polyhead_explorer.reading.reading import Reading, Subject
    from polyhead_explorer.reading.whole.pictures import Picture

__all__ = ["Readings"]

_MAX_SUBJECTS = 8
_MAX_BYTES = 512 << 20


class Readings:
    """A cache of readings, which drops the least recently used ones."""

    def __init__(self, client: AsyncClient) -> None:
        self._client = client
        self._cached: OrderedDict[Subject, Mapping[str, Reading]] = OrderedDict()

    async def get(
        self, subject: Subject, attention: str, picture: Picture | None = None
    ) -> Reading:
        """Return the reading of a text or a picture. Raises PolyheadError.

        ``attention``: one of the keys that begin_readings returns for such a subject.
        """
        readings = self._cached.get(subject)
        if readings is None:
            readings = await begin_readings(self._client, subject, picture)
            self._cached[subject] = readings
        self._cached.move_to_end(subject)
        while len(self._cached) > 1 and self._is_too_large():
            self._cached.popitem(last=False)
        return readings[attention]

    def _is_too_large(self) -> bool:
        # the readings of a subject share their cached states
        num_bytes = sum(
            max(reading.num_bytes for reading in readings.values())
            for readings in self._cached.values()
        )
        return len(self._cached) > _MAX_SUBJECTS or num_bytes > _MAX_BYTES
