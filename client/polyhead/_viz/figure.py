"""A picture whose parts have sizes in pixels, without pyplot and its global state."""

from __future__ import annotations

import io
from bisect import bisect_right
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import FuncNorm, LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties

from polyhead._viz.colours import ramp
from polyhead._viz.fonts import ignoring_missing_glyphs

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from os import PathLike
    from typing import IO

    from matplotlib.axes import Axes
    from matplotlib.backend_bases import RendererBase
    from matplotlib.image import AxesImage
    from numpy.typing import NDArray

    from polyhead._viz.scale import Scale

__all__ = [
    "GREY",
    "Captions",
    "Heading",
    "Picture",
    "draw_cells",
    "save",
    "scale_width",
    "short_label",
    "widest",
]

GREY = "0.35"
_DPI = 150
_MAX_LABEL = 18
_MARGIN = 20
_TITLE_PX, _TEXT_PX, _NOTE_PX = 36, 28, 24
_BAR_WIDTH, _BAR_LABEL_PX, _MAX_BAR_PX, _TICK_PX = 20, 120, 700, 28


@dataclass(frozen=True, slots=True, kw_only=True)
class Captions:
    """The texts of a picture."""

    title: str = ""
    text: str = ""
    """The text that the numbers are about; its beginning is shown."""
    label: str = "attention weight"
    """The name of the numbers."""
    notes: Sequence[str] = ()
    """Lines at the picture's end."""


class Picture(Figure):
    """A figure that notebooks show even if matplotlib's pyplot is not set up in them."""

    @classmethod
    def of_size(cls, width: float, height: float) -> Picture:
        """Make an empty picture of so many pixels."""
        picture = cls(figsize=(width / _DPI, height / _DPI), dpi=_DPI)
        FigureCanvasAgg(picture)
        return picture

    def add_box(self, left: float, top: float, width: float, height: float) -> Axes:
        """Add axes without ticks and frame at a place in pixels, counted from the top left."""
        full_width, full_height = self.get_size_inches() * _DPI
        box = (
            left / full_width,
            1 - (top + height) / full_height,
            width / full_width,
            height / full_height,
        )
        axes = self.add_axes(box)
        axes.spines[:].set_visible(False)
        axes.tick_params(length=0, labelsize=8)
        return axes

    def add_text(self, left: float, top: float, text: str, **style: Any) -> None:  # noqa: ANN401
        """Write a text whose top left corner is at a place in pixels."""
        full_width, full_height = self.get_size_inches() * _DPI
        place = (left / full_width, 1 - top / full_height)
        self.text(*place, text, **{"va": "top", "parse_math": False, **style})

    def add_scale(
        self,
        image: AxesImage,
        scale: Scale,
        label: str,
        box: tuple[float, float, float],
        *,
        zoom: float = 1.0,
    ) -> None:
        """Draw which colour stands for which number.

        ``box``: left, top, and the height that there is. It is scale_width(zoom) wide.
        """
        left, top, room = box
        height = min(room, _MAX_BAR_PX * zoom)
        axes = self.add_box(left, top, _BAR_WIDTH * zoom, height)
        ticks = scale.ticks(distance=_TICK_PX * zoom / height)
        bar = self.colorbar(image, cax=axes, ticks=ticks)
        bar.ax.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
        bar.ax.minorticks_off()
        bar.ax.tick_params(labelsize=8 * zoom, length=3)
        bar.outline.set_visible(False)
        text = ", ".join(filter(None, (label, scale.describe())))
        size = 9 * zoom
        if text_width(text, size) > room:
            lines = list(filter(None, (label, scale.describe())))
            text, size = "\n".join(lines), size * min(room / widest(lines, size), 0.9)
        bar.set_label(text, fontsize=size, color=GREY, parse_math=False)

    def draw(self, renderer: RendererBase) -> None:
        """Draw the picture, whatever letters its tokens have."""
        with ignoring_missing_glyphs():
            super().draw(renderer)

    def _repr_png_(self) -> bytes:
        buffer = io.BytesIO()
        save(self, buffer)
        return buffer.getvalue()


class Heading:
    """A picture's title, a text below it, and notes at its end, with the room that they take."""

    def __init__(self, captions: Captions, *further: str, zoom: float = 1.0) -> None:
        """``further``: more notes. ``zoom``: how much larger letters are than in small pictures."""
        self._title, self._text = captions.title, printable(captions.text)
        self._notes = [note for note in (*captions.notes, *further) if note]
        self._zoom = zoom

    @property
    def top(self) -> int:
        """Height in pixels above the picture's content."""
        lines = bool(self._title) * _TITLE_PX + bool(self._text) * _TEXT_PX
        return _MARGIN + round(lines * self._zoom)

    @property
    def bottom(self) -> int:
        """Height in pixels below the picture's content."""
        return _MARGIN + round(len(self._notes) * _NOTE_PX * self._zoom)

    def draw(self, picture: Picture) -> None:
        """Write all of them."""
        width, height = picture.get_size_inches() * _DPI
        room, top = width - 2 * _MARGIN, float(_MARGIN)
        if self._title:
            size = 12 * self._zoom
            place = {"x": _MARGIN / width, "y": 1 - top / height, "ha": "left", "va": "top"}
            title = _fitting(self._title, size, room)
            picture.suptitle(title, fontsize=size, parse_math=False, **place)
            top += _TITLE_PX * self._zoom
        if self._text:
            size = 9 * self._zoom
            text = _fitting(f"“{self._text}”", size, room)
            picture.add_text(_MARGIN, top, text, fontsize=size, color=GREY)
        top = height - self.bottom + _MARGIN / 2
        for note in self._notes:
            size = 8 * self._zoom
            line = _fitting(note, size, room)
            picture.add_text(_MARGIN, top, line, fontsize=size, color=GREY)
            top += _NOTE_PX * self._zoom


def draw_cells(axes: Axes, numbers: NDArray[np.float64], scale: Scale, **place: Any) -> AxesImage:  # noqa: ANN401
    """Draw a matrix of coloured cells. Cells of NaN and of infinities stay blank."""
    return axes.imshow(
        np.ma.masked_invalid(numbers),
        cmap=_COLOUR_MAPS[scale.is_diverging],
        norm=FuncNorm((scale.shares, scale.numbers), vmin=scale.low, vmax=scale.high, clip=True),
        aspect="auto",
        interpolation="nearest",
        interpolation_stage="rgba",  # colours are made of the numbers, and not of each pixel
        **place,
    )


def scale_width(zoom: float = 1.0) -> int:
    """Return the width of a picture's scale in pixels."""
    return round((_BAR_WIDTH + _BAR_LABEL_PX) * zoom)


def save(figure: Figure, file: str | PathLike[str] | IO[bytes]) -> None:
    """Write a figure as PNG."""
    figure.savefig(file, format="png")


def text_width(text: str, font_size: float) -> float:
    """Return the width of a text in pixels."""
    with ignoring_missing_glyphs():
        width, _, _ = _RENDERER.get_text_width_height_descent(
            text, FontProperties(size=font_size), ismath=False
        )
    return float(width)


def widest(texts: Iterable[str], font_size: float) -> float:
    """Return the width of the widest text in pixels."""
    return max((text_width(text, font_size) for text in set(texts)), default=0.0)


def short_label(text: str) -> str:
    """Turn a token into one short printable word."""
    text = printable(text) or repr(text)
    return text if len(text) <= _MAX_LABEL else text[: _MAX_LABEL - 1] + "…"


def printable(text: str) -> str:
    """Replace line breaks and other letters that cannot be drawn by spaces."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def _fitting(text: str, font_size: float, room: float) -> str:
    """Cut a text to a width in pixels; a cut text ends with an ellipsis."""
    most = int(room / font_size)  # letters: more than fit, because each is about a point wide
    if len(text) <= most and text_width(text, font_size) <= room:
        return text
    end = "…”" if text.endswith("”") else "…"
    num_letters = bisect_right(
        range(min(most, len(text))),
        room,
        key=lambda count: text_width(text[:count] + end, font_size),
    )
    return text[: max(num_letters - 1, 0)].rstrip() + end


_RENDERER = FigureCanvasAgg(Figure(dpi=_DPI)).get_renderer()  # type: ignore[no-untyped-call]
_COLOUR_MAPS = {
    kind: LinearSegmentedColormap.from_list("polyhead", ramp(is_diverging=kind), N=512)
    for kind in (False, True)
}
