"""Endpoints that take the page's pictures, and return them by their names."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING

import numpy as np

from polyhead_explorer.reading.whole.pictures import Picture
from polyhead_explorer.web.frames import encode_frame

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from polyhead_explorer.api.subjects import Subjects
    from polyhead_explorer.web.bodies import Body

__all__ = ["picture", "upload"]

_MAX_SIDE = 4096


async def upload(subjects: Subjects, body: Body) -> AsyncGenerator[bytes, None]:
    """Store a picture: ``height``, ``width``, ``pixels`` (base64 of red, green and blue)."""
    shape = body.number("height", 1, _MAX_SIDE), body.number("width", 1, _MAX_SIDE), 3
    data = body.data("pixels", shape[0] * shape[1] * shape[2])
    pixels = np.frombuffer(data, np.uint8).reshape(shape)
    yield encode_frame({"image": subjects.pictures.add(Picture(pixels))})


async def picture(subjects: Subjects, body: Body) -> AsyncGenerator[bytes, None]:
    """Yield the picture with the name ``image``, with the fields of ``upload``."""
    pixels = subjects.picture(body.text("image")).pixels
    height, width, _ = pixels.shape
    data = base64.b64encode(pixels.tobytes()).decode()
    yield encode_frame({"height": height, "width": width, "pixels": data})
