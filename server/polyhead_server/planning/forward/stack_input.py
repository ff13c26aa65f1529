"""What enters a stack of a whole model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

import numpy as np

from polyhead_server.errors import InvalidRequestError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from polyhead_server.forward_call import ForwardCall

__all__ = ["StackInput", "lengths_of", "refuse"]


class StackInput(NamedTuple):
    """The input of a stack."""

    array: NDArray[Any]
    lengths: NDArray[np.int64]
    """Valid positions of each sequence, (batch_size,)."""
    seq_len: int
    """Length of the axis of positions in the response."""
    first_layer: int = 0
    is_hidden: bool = False
    """Whether the array has hidden states, which enter ``first_layer`` without the embedding."""
    token_types: NDArray[np.int64] | None = None
    """The type of each token; None: the first one, or none."""


def refuse(field: str, problem: str, reason: str) -> NoReturn:
    """Raise InvalidRequestError."""
    raise InvalidRequestError(field, problem, reason)


def lengths_of(call: ForwardCall, field: str, batch_size: int, seq_len: int) -> NDArray[np.int64]:
    """Read the number of valid positions of each sequence; without the field all are valid.

    Raises InvalidRequestError.
    """
    lengths = call.lengths.get(field, ())
    if not lengths:
        return np.full(batch_size, seq_len)
    if len(lengths) != batch_size:
        refuse(
            field,
            f"expected {batch_size} entries, one for each sequence; got {len(lengths)}",
            "SHAPE_MISMATCH",
        )
    for index, length in enumerate(lengths):
        if not 1 <= length <= seq_len:
            problem = f"expected lengths from 1 to {seq_len}; got {length}"
            refuse(f"{field}[{index}]", problem, "OUT_OF_RANGE")
    return np.array(lengths, np.int64)
