"""The last few texts and pictures, so that a click on a head does not begin from them again."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from polyhead_explorer.reading.catalogue import begin_reading

if TYPE_CHECKING:
    from polyhead import AsyncClient
    from polyhead_explorer.reading.pictures import Picture
    from polyhead_explorer.reading.reading import Reading

__all__ = ["Readings", "Subject"]

_MAX_READINGS = 8
_MAX_BYTES = 512 << 20


@dataclass(frozen=True, slots=True)
class Subject:
    """A text, and the model that reads it."""

    model: str
    version: int | None
    """None: the newest."""
    text: str
    image: str | None = None
    """The name of a picture, which is read in place of the text."""


class Readings:
    """Texts and pictures as models read them; the least recently used are dropped."""

    def __init__(self, client: AsyncClient) -> None:
        self._client = client
        self._kept: OrderedDict[Subject, Reading] = OrderedDict()

    async def get(self, subject: Subject, picture: Picture | None = None) -> Reading:
        """Return the reading of a text or a picture. Raises PolyheadError."""
        reading = self._kept.get(subject)
        if reading is None:
            reading = await begin_reading(
                self._client, subject.model, subject.version, subject.text, picture
            )
            self._kept[subject] = reading
        self._kept.move_to_end(subject)
        while len(self._kept) > 1 and self._is_over():
            self._kept.popitem(last=False)
        return reading

    def _is_over(self) -> bool:
        num_bytes = sum(reading.num_bytes for reading in self._kept.values())
        return len(self._kept) > _MAX_READINGS or num_bytes > _MAX_BYTES
