"""The last few texts and pictures, so that a click on a head does not begin from them again."""

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
    """Texts and pictures as models read them; the least recently used are dropped."""

    def __init__(self, client: AsyncClient) -> None:
        self._client = client
        self._kept: OrderedDict[Subject, Mapping[str, Reading]] = OrderedDict()

    async def get(
        self, subject: Subject, attention: str, picture: Picture | None = None
    ) -> Reading:
        """Return the reading of a text or a picture. Raises PolyheadError.

        ``attention``: one that begin_readings gives of such a subject.
        """
        readings = self._kept.get(subject)
        if readings is None:
            readings = await begin_readings(self._client, subject, picture)
            self._kept[subject] = readings
        self._kept.move_to_end(subject)
        while len(self._kept) > 1 and self._is_over():
            self._kept.popitem(last=False)
        return readings[attention]

    def _is_over(self) -> bool:
        # The readings of a subject share what they keep.
        num_bytes = sum(
            max(reading.num_bytes for reading in readings.values())
            for readings in self._kept.values()
        )
        return len(self._kept) > _MAX_SUBJECTS or num_bytes > _MAX_BYTES
