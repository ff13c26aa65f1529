"""A mask of padding -> lengths, or else a mask of attention; see _checks.py."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from polyhead._arguments.arrays import as_array
from polyhead._checks import bad_value, invalid

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

_NAME = "key_padding_mask"


class Padding(NamedTuple):
    """What a mask of padding means for a request."""

    kv_lengths: NDArray[Any] | None
    """(batch_size,), if all padding is on the right: such sequences need no mask."""
    attn_mask: NDArray[Any] | None
    """The mask of the request, with the padding."""


def read_padding(
    mask: ArrayLike, keys: NDArray[Any], attn_mask: NDArray[Any] | None, *, has_lengths: bool
) -> Padding:
    """Read a mask, (batch_size, kv_seq_len), True or 1 where a key is valid.

    ``keys``: the array that the keys are made of. ``attn_mask``: that of the call, which stays in
    force. ``has_lengths``: whether the call has ``kv_lengths``, too, which is refused.
    """
    if has_lengths:
        raise bad_value(_NAME, "is given with kv_lengths, which says the same: leave out one")
    valid = _checked(as_array(_NAME, mask), keys)
    lengths = valid.sum(axis=1)
    if (valid == (np.arange(valid.shape[1]) < lengths[:, None])).all():
        return Padding(lengths, attn_mask)
    wide = valid[:, None, None, :]
    if attn_mask is None:
        return Padding(None, wide)
    if attn_mask.dtype == bool:
        return Padding(None, attn_mask & wide)
    return Padding(None, np.where(wide, attn_mask, np.array(-np.inf, attn_mask.dtype)))


def _checked(mask: NDArray[Any], keys: NDArray[Any]) -> NDArray[np.bool_]:
    expected = (keys.shape[0], keys.shape[-2]) if keys.ndim > 2 else None
    if mask.ndim != 2 or expected not in (None, mask.shape):
        sizes = f" = {expected}" if expected else ""
        raise invalid(
            _NAME,
            f"expected (batch_size, kv_seq_len){sizes}; got shape {mask.shape}",
            f"{_NAME}.shape",
            "SHAPE_MISMATCH",
        )
    if mask.dtype == bool:
        return mask
    if mask.dtype.kind not in "iuf" or not np.isin(mask, (0, 1)).all():
        raise bad_value(
            _NAME,
            "expected True or 1 where a key is valid, and False or 0 where it is padding, as "
            f"transformers' attention_mask; got {mask.dtype}",
        )
    return mask.astype(bool)
