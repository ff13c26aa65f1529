"""Pictures in whole models: the form in which a model takes them, and their patches."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from polyhead.errors import InvalidArgumentError
from polyhead_explorer.reading.reading import Grid, Token
from polyhead_explorer.reading.whole.stack_run import StackRun, layer_key
from polyhead_explorer.reading.whole.text import WholeReading

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from polyhead import AsyncClient, ModelInfo, StackSpec

__all__ = ["Picture", "PictureForm", "Pictures", "picture_form", "picture_stack", "read_picture"]

_NUM_PATCHES = 16
"""Rows and columns of patches in a model that takes pictures of any size."""
_CHANNELS = 3
_MAX_PICTURES = 32
_HALVES = (0.5, 0.5, 0.5)
_IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_OPENAI = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
_DEFAULTS: dict[str, tuple[tuple[float, ...], tuple[float, ...], float]] = {
    "clip": (*_OPENAI, 1.0),
    "clip_vision_model": (*_OPENAI, 1.0),
    "deit": (*_IMAGENET, 0.875),
    "dinov2": (*_IMAGENET, 0.875),
    "dinov2_with_registers": (*_IMAGENET, 0.875),
    "siglip": (_HALVES, _HALVES, 0.0),
    "siglip_vision_model": (_HALVES, _HALVES, 0.0),
    "vit": (_HALVES, _HALVES, 0.0),
}
"""Mean, deviation and crop by family: the defaults of transformers' image processors."""
_SPECIAL = {"deit": ("[CLS]", "[DIST]")}


@dataclass(frozen=True, slots=True)
class PictureForm:
    """The form in which a model takes pictures."""

    height: int
    width: int
    crop: float
    """The share of the shorter side in a square that is cut from the middle. 0 means that the whole
    picture is resized."""
    mean: tuple[float, ...]
    """The number that is subtracted from each channel, whose values are from 0 to 1."""
    std: tuple[float, ...]
    """The number by which each channel is then divided."""
    family: str
    """The family with these published defaults; empty if the family is not known and they are a
    guess."""


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture in a model's size."""

    pixels: NDArray[np.uint8]
    """(height, width, 3): red, green and blue."""


class Pictures:
    """The last 32 pictures, by the SHA-256 of their pixels."""

    def __init__(self) -> None:
        self._pictures: OrderedDict[str, Picture] = OrderedDict()

    def add(self, picture: Picture) -> str:
        """Store a picture. Returns its name."""
        shape = str(picture.pixels.shape).encode()
        name = hashlib.sha256(shape + picture.pixels.tobytes()).hexdigest()
        self._pictures[name] = picture
        self._pictures.move_to_end(name)
        while len(self._pictures) > _MAX_PICTURES:
            self._pictures.popitem(last=False)
        return name

    def get(self, name: str) -> Picture | None:
        """Return a picture; None if it is not stored any more."""
        return self._pictures.get(name)


def picture_stack(model: ModelInfo) -> StackSpec | None:
    """Return the stack that takes pictures in colour; None if there is none."""
    for stack in model.whole.stacks if model.whole else ():
        if stack.input == "pixel_values" and stack.input_shape[0] == _CHANNELS:
            return stack
    return None


def picture_form(model: ModelInfo, stack: StackSpec) -> PictureForm:
    """Return the form of a model's pictures: its size, and the published defaults of its family."""
    height, width = stack.input_shape[1:]
    if stack.patch_size:
        height = height or _NUM_PATCHES * stack.patch_size[0]
        width = width or _NUM_PATCHES * stack.patch_size[1]
    family = model.provenance.family if model.provenance else ""
    mean, std, crop = _DEFAULTS.get(family, (_HALVES, _HALVES, 0.0))
    return PictureForm(height, width, crop, mean, std, family if family in _DEFAULTS else "")


async def read_picture(
    client: AsyncClient, model: ModelInfo, stack: StackSpec, picture: Picture
) -> WholeReading:
    """Split a picture into patches and embed them. No layer runs. Raises PolyheadError."""
    form = picture_form(model, stack)
    expected = (form.height, form.width, _CHANNELS)
    if picture.pixels.shape != expected:
        raise InvalidArgumentError(
            f"the picture has another model's size: expected {form.height} x {form.width} pixels"
        )
    values: NDArray[Any] = picture.pixels.astype(np.float32) / np.float32(255)
    values = (values - np.asarray(form.mean, np.float32)) / np.asarray(form.std, np.float32)
    key = layer_key(model, stack, 0)
    first = await client.forward(
        pixel_values=np.ascontiguousarray(values.transpose(2, 0, 1)[None]),
        model=model.name,
        version=model.version,
        need_hidden_states=key,
        need_output=False,
    )
    states = first.hidden_states[key]
    grid = _grid_of(stack, form, states.shape[1])
    family = model.provenance.family if model.provenance else ""
    return WholeReading(StackRun(client, model, stack, states), _tokens(grid, family), picture=grid)


def _grid_of(stack: StackSpec, form: PictureForm, num_tokens: int) -> Grid:
    """Return the grid of patches. A model that takes one size only does not state their size."""
    if stack.patch_size:
        rows, columns = form.height // stack.patch_size[0], form.width // stack.patch_size[1]
        return Grid(rows, columns, num_tokens - rows * columns)
    for first in range(num_tokens):  # the first match has the fewest other tokens
        for rows in range(1, num_tokens - first + 1):
            columns, rest = divmod(num_tokens - first, rows)
            if not rest and form.height // rows == form.width // columns:
                return Grid(rows, columns, first)
    return Grid(1, num_tokens, 0)


def _tokens(grid: Grid, family: str) -> tuple[Token, ...]:
    special_names = _SPECIAL.get(family, ("[CLS]",))
    names = [
        special_names[index]
        if index < len(special_names)
        else f"[REG{index - len(special_names) + 1}]"
        for index in range(grid.first)
    ]
    patches = [f"{row},{column}" for row in range(grid.rows) for column in range(grid.columns)]
    return (
        *(Token(name, name, 0, 0) for name in names),
        *(Token(name, f"patch {name}", index, index + 1) for index, name in enumerate(patches)),
    )
