"""Finds the readings of texts and pictures that requests name in their fields."""

from __future__ import annotations

from typing import TYPE_CHECKING

from polyhead_explorer.reading.cache import Readings
from polyhead_explorer.reading.catalogue import ENCODER
from polyhead_explorer.reading.reading import Subject
from polyhead_explorer.reading.whole.pictures import Pictures
from polyhead_explorer.web.errors import BadRequestError

if TYPE_CHECKING:
    from polyhead import AsyncClient
    from polyhead_explorer.reading.reading import Reading
    from polyhead_explorer.reading.whole.pictures import Picture
    from polyhead_explorer.web.bodies import Body

__all__ = ["Subjects"]

_MAX_VERSION = 2**63 - 1
_ATTENTIONS = (ENCODER, "decoder", "cross")


class Subjects:
    """The readings and the pictures that requests name.

    The fields are ``model``, ``version`` (null means the newest), ``text``, and optionally
    ``text_pair``, the second text, which becomes one sequence with the text, or ``image``, the name
    of a picture that is read in place of the text. Encoder-decoders also take
    ``attention``: "encoder" (the default), "decoder", or "cross", which is the attention of the
    decoder to the encoder. The last two need ``decoder_text``.
    """

    client: AsyncClient
    _readings: Readings

    def __init__(self) -> None:
        self.pictures = Pictures()

    def use(self, client: AsyncClient) -> None:
        """Use this client from now on."""
        self.client = client
        self.forget()

    def forget(self) -> None:
        """Drop all readings."""
        self._readings = Readings(self.client)

    async def reading(self, body: Body) -> Reading:
        """Return the reading that a request names. Raises PolyheadError and BadRequestError."""
        image = body.optional_text("image")
        picture = None if image is None else self.picture(image)
        pair = _text_pair(body)
        return await self._reading(body, body.text("text"), pair, _decoder_text(body), picture)

    async def other(self, body: Body) -> Reading:
        """Return the reading of the text ``other``, with the same second and decoder's text."""
        return await self._reading(body, body.text("other"), _text_pair(body), _decoder_text(body))

    async def word(self, body: Body, field: str) -> Reading:
        """Return the reading of a word, in place of the texts or of the decoder's text."""
        word, decoder_text = body.text(field), _decoder_text(body)
        if decoder_text is None:
            return await self._reading(body, word, None, None)
        return await self._reading(body, body.text("text"), _text_pair(body), word)

    def picture(self, name: str) -> Picture:
        """Return a picture by its name. Raises BadRequestError."""
        picture = self.pictures.get(name)
        if picture is None:
            raise BadRequestError(
                "the explorer does not have the picture any more: choose it again"
            )
        return picture

    async def _reading(
        self,
        body: Body,
        text: str,
        text_pair: str | None,
        decoder_text: str | None,
        picture: Picture | None = None,
    ) -> Reading:
        version = body.optional_number("version", 1, _MAX_VERSION)
        image = None if picture is None else body.text("image")
        subject = Subject(body.text("model"), version, text, image, text_pair, decoder_text)
        return await self._readings.get(subject, _attention(body), picture)


def _attention(body: Body) -> str:
    attention = body.optional_text("attention") or ENCODER
    if attention not in _ATTENTIONS:
        raise BadRequestError(f"attention: expected one of {', '.join(_ATTENTIONS)}")
    return attention


def _text_pair(body: Body) -> str | None:
    """Return the second text; None if there is none."""
    text_pair = body.optional_text("text_pair")
    if text_pair is not None and body.optional_text("image") is not None:
        raise BadRequestError("text_pair: expected null, because a picture has no second text")
    return text_pair


def _decoder_text(body: Body) -> str | None:
    """Return the decoder's text; None if the encoder's attention is requested."""
    if _attention(body) == ENCODER:
        return None
    if body.optional_text("image") is not None:
        raise BadRequestError("image: expected null, because a decoder's encoder reads a text")
    return body.text("decoder_text")
