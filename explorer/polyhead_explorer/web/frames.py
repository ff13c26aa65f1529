"""Writes arrays for the page. A response consists of frames, each a JSON header and arrays.

A frame is the header's length (uint32, little-endian), the header, which is padded with spaces so
that the arrays begin at a multiple of four, and the arrays. The header lists them by name and shape
in ``arrays``. They are float32, or float16 if ``halves`` has their name.
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
    """Write a frame. ``arrays`` of float16 stay so; all others become float32."""
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
