"""What requests are about: readings of texts and pictures, by the fields that name them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from polyhead_explorer.reading.cache import Readings, Subject
from polyhead_explorer.reading.pictures import Pictures
from polyhead_explorer.web.errors import BadRequestError

if TYPE_CHECKING:
    from polyhead import AsyncClient
    from polyhead_explorer.reading.pictures import Picture
    from polyhead_explorer.reading.reading import Reading
    from polyhead_explorer.web.bodies import Body

__all__ = ["Subjects"]

_MAX_VERSION = 2**63 - 1


class Subjects:
    """The readings and the pictures that requests name.

    The fields are ``model``, ``version`` (null: the newest), ``text`` and perhaps ``image``, a
    picture's name, which is read in place of the text.
    """

    client: AsyncClient
    _readings: Readings

    def __init__(self) -> None:
        self.pictures = Pictures()

    def use(self, client: AsyncClient) -> None:
        """Ask this client from now on."""
        self.client = client
        self.forget()

    def forget(self) -> None:
        """Forget what was read."""
        self._readings = Readings(self.client)

    async def reading(self, body: Body, text: str = "text") -> Reading:
        """Return the reading of a field's text. Raises PolyheadError and BadRequestError."""
        version = body.optional_number("version", 1, _MAX_VERSION)
        image = body.optional_text("image") if text == "text" else None
        subject = Subject(body.text("model"), version, body.text(text), image)
        picture = None if image is None else self.picture(image)
        return await self._readings.get(subject, picture)

    def picture(self, name: str) -> Picture:
        """Return a picture by its name. Raises BadRequestError."""
        picture = self.pictures.get(name)
        if picture is None:
            raise BadRequestError("the picture is not here any more: choose it again")
        return picture
