"""Arrays for the page: a response is frames, each a JSON header and float32 numbers.

A frame is the header's length (uint32, little-endian), the header, padded with spaces so that the
numbers lie at a multiple of four, and the arrays that its ``arrays`` lists by name and shape.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["CONTENT_TYPE", "encode_frame"]

CONTENT_TYPE = "application/vnd.polyhead.frames"
_ALIGNMENT = 4


def encode_frame(header: dict[str, Any], **arrays: NDArray[Any]) -> bytes:
    """Write a frame; ``arrays`` become float32."""
    numbers = {name: np.ascontiguousarray(array, "<f4") for name, array in arrays.items()}
    shapes = {name: array.shape for name, array in numbers.items()}
    text = json.dumps({**header, "arrays": shapes}, allow_nan=False).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    parts = [len(text).to_bytes(4, "little"), text, *(a.tobytes() for a in numbers.values())]
    return b"".join(parts)
