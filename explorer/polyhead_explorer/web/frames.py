"""Arrays for the page: a response is frames, each a JSON header and numbers.

A frame is the header's length (uint32, little-endian), the header, padded with spaces so that the
numbers lie at a multiple of four, and the arrays that its ``arrays`` lists by name and shape. They
are float32, or float16 where ``halves`` names them.
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
    """Write a frame; ``arrays`` become float32, but for those of float16."""
    halves = [name for name, array in arrays.items() if array.dtype == np.float16]
    numbers = {
        name: np.ascontiguousarray(array, "<f2" if name in halves else "<f4")
        for name, array in arrays.items()
    }
    shapes = {name: array.shape for name, array in numbers.items()}
    fields = {**header, "arrays": shapes} | ({"halves": halves} if halves else {})
    text = json.dumps(fields, allow_nan=False).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    parts = [len(text).to_bytes(4, "little"), text, *(a.tobytes() for a in numbers.values())]
    return b"".join(parts)
