"""Check indices of heads, queries and keys. _checks.py describes the errors."""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING, cast

import numpy as np

from polyhead._checks import bad_value, invalid

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_BOOLS = (bool, np.bool_)
_INT = {int}
MAX_INDEX = 2**31
"""The first number above the contract's int32."""


def checked_indices(name: str, indices: object, field: str, advice: str = "") -> tuple[int, ...]:
    """Return one integer or several as a tuple. Bools and text are refused.

    ``advice``: ends the error's message.
    """
    try:
        if isinstance(indices, tuple) and set(map(type, indices)) <= _INT:  # the usual case
            return indices
        if isinstance(indices, int | np.integer):
            return (_as_index(indices),)
        if not isinstance(indices, str | bytes):
            return tuple(_as_index(index) for index in cast("Iterable[object]", indices))
    except TypeError:
        pass
    message = f"expected an integer or a sequence of integers; got {indices!r}{advice}"
    raise bad_value(name, message, field)


def check_indices(name: str, field: str, indices: Sequence[int], end: int, end_name: str) -> None:
    """Refuse indices outside [0, end), repeated indices, and more indices than ``end``."""
    if len(indices) > end:
        message = f"expected at most {end_name} indices; got {len(indices)}"
        raise invalid(name, message, field, "TOO_MANY")
    for position, index in enumerate(indices):
        if not 0 <= index < end:
            message = f"expected indices from 0 to below {end_name}; got {index}"
            raise invalid(name, message, f"{field}[{position}]", "OUT_OF_RANGE")
    if len(set(indices)) != len(indices):
        twice = next(index for index in indices if indices.count(index) > 1)
        message = f"expected each index once; got {twice} more than once"
        raise invalid(name, message, field, "DUPLICATE")


def _as_index(value: object) -> int:
    if isinstance(value, _BOOLS):  # a mask is not a list of indices
        raise TypeError
    return operator.index(value)  # type: ignore[arg-type] # raises TypeError for other types
