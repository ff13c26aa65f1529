"""Checks that the segments of a whole model compute what its metadata describes."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from polyhead_server.errors import ModelFileError
from polyhead_server.repository.model_check import check_size, limited_runs, run_every_branch

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from polyhead_models.whole_config import Stack, Sublayer
    from polyhead_server.engine.model import RunOptions
    from polyhead_server.engine.whole_model import WholeModel

__all__ = ["check_whole_model"]

_NUM_PATCHES = 8
"""Patches along an axis of an image that may have any size."""
_MAX_INPUT = 1 << 24
"""Most numbers that an input or the hidden states hold in a check."""


def check_whole_model(model: WholeModel, num_bytes: int, max_seconds: float) -> None:
    """Run every segment of a whole model once, which also warms it up.

    ``num_bytes``: size of the model's files. Raises ModelFileError, also if the runs have not ended
    after ``max_seconds``.
    """
    for stack, _, sublayer in model.config.sublayers():
        if sublayer.block is not None:
            check_size(sublayer.block, num_bytes)
        if stack.vocab_size > num_bytes:
            raise ModelFileError("its metadata describe more words than its files hold")
    with limited_runs(model.run_options(), max_seconds) as options:
        for stack in model.config.stacks:
            _check_stack(model, stack, options)
        for block in {block.segment: block for block in model.blocks()}.values():
            run_every_branch(block, options)


def _check_stack(model: WholeModel, stack: Stack, options: RunOptions) -> None:
    """Run the segments besides attention."""
    length, feeds = _input(stack, model.config.dtype)
    if (num_types := model.num_token_types(stack)) > 1:
        feeds["token_type_ids"] = np.full((1, length), num_types - 1)
    embedded = model.run(stack.embed, feeds, options)
    _check(embedded, (1, length, stack.hidden_size))
    states = np.zeros((1, 2, stack.hidden_size), model.config.dtype)
    # layers with the same weights are the same segments
    for sublayer in dict.fromkeys(sublayer for layer in stack.layers for sublayer in layer):
        _check_sublayer(model, sublayer, states, options)
    if stack.finish >= 0:
        output = model.run(stack.finish, {"hidden_states": states}, options)
        _check(output, (1, 2, stack.output_size))
    elif stack.output_size != stack.hidden_size:
        raise ModelFileError("its output has another width than its hidden states")


def _input(stack: Stack, dtype: str) -> tuple[int, dict[str, NDArray[Any]]]:
    """Make the longest input that takes little memory; return its number of positions as well."""
    if stack.input == "token_ids":
        length = min(stack.max_length or 2, max(1, _MAX_INPUT // stack.hidden_size))
        ids = np.full((1, length), stack.vocab_size - 1)
        return length, {"token_ids": ids}
    shape = stack.input_shape
    if stack.patch_size:
        shape = shape[0], *(_NUM_PATCHES * size for size in stack.patch_size)
    length = stack.length_of(shape)
    if not length or max(math.prod(shape), length * stack.hidden_size) > _MAX_INPUT:
        raise ModelFileError("its metadata describe no input of a sensible size")
    return length, {stack.input: np.zeros((1, *shape), dtype)}


def _check_sublayer(
    model: WholeModel, sublayer: Sublayer, states: NDArray[Any], options: RunOptions
) -> None:
    feeds = {"hidden_states": states}
    if sublayer.enter >= 0:
        _check(model.run(sublayer.enter, dict(feeds), options), states.shape)
    feeds |= {"attended": states, "attention_input": states}
    _check(model.run(sublayer.leave, feeds, options), states.shape)


def _check(actual: NDArray[Any], shape: tuple[int, ...]) -> None:
    if actual.shape != shape:
        raise ModelFileError("its graph does not compute what its metadata says")
