"""A whole matrix as pixels in the terminal, each of half a letter."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from rich.style import Style
from rich.text import Text

from polyhead._viz.colours import rgb
from polyhead._viz.sizes import pool

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray
    from rich.console import Console

    from polyhead._viz.scale import Scale

__all__ = ["overview"]

_MAX_LINES = 32
_UPPER, _LOWER = "▀", "▄"


def overview(weights: NDArray[np.float64], scale: Scale, console: Console) -> Iterator[Text]:
    """Yield lines with a pixel for each weight, or for the largest of so many as need be.

    Nothing is yielded where there are no colours, or where the encoding lacks half blocks.
    """
    if not console.color_system or _encoded(_UPPER, console) != _UPPER:
        return
    num_queries, num_keys = weights.shape
    wide, long = num_keys / (console.width - 1), num_queries / (2 * _MAX_LINES)
    factor = max(1, math.ceil(wide), math.ceil(long))
    numbers = pool(np.where(np.isneginf(weights), np.nan, weights), factor, factor)
    blank = np.isnan(numbers)
    colours = rgb(scale.shares(np.nan_to_num(numbers)), is_diverging=scale.is_diverging)
    yield Text(_caption(num_queries, num_keys, factor), style="dim")
    for top in range(0, len(numbers), 2):
        line = Text()
        for key in range(numbers.shape[1]):
            upper = None if blank[top, key] else colours[top, key]
            has_lower = top + 1 < len(numbers) and not blank[top + 1, key]
            lower = colours[top + 1, key] if has_lower else None
            line.append(*_pixels(upper, lower))
        yield line
    yield Text()


def _caption(num_queries: int, num_keys: int, factor: int) -> str:
    pixel = f"the largest of {factor} x {factor} weights" if factor > 1 else "one weight"
    return f"{num_queries} queries down, {num_keys} keys across; a pixel is {pixel}"


def _pixels(
    upper: NDArray[np.intp] | None, lower: NDArray[np.intp] | None
) -> tuple[str, Style | None]:
    """Return a letter for two pixels, one above the other; None is blank."""
    if upper is None:
        return (" ", None) if lower is None else (_LOWER, Style(color=_hex(lower)))
    return _UPPER, Style(color=_hex(upper), bgcolor=None if lower is None else _hex(lower))


def _hex(colour: NDArray[np.intp]) -> str:
    red, green, blue = colour.tolist()
    return f"#{red:02x}{green:02x}{blue:02x}"


def _encoded(text: str, console: Console) -> str:
    return text.encode(console.encoding, "replace").decode(console.encoding)
