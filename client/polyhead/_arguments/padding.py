"""key_padding_mask -> lengths, or else an attention mask. _checks.py describes the errors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from polyhead._arguments.arrays import as_array
from polyhead._checks import bad_value, invalid

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

_NAME = "key_padding_mask"


class Padding(NamedTuple):
    """The fields of a request that express a padding mask."""

    kv_lengths: NDArray[Any] | None
    """(batch_size,) if all padding is on the right; None if a mask must express it."""
    attn_mask: NDArray[Any] | None
    """The request's attention mask, with the padding unless kv_lengths expresses it."""


def read_padding(
    mask: ArrayLike, keys: NDArray[Any], attn_mask: NDArray[Any] | None, *, has_lengths: bool
) -> Padding:
    """Read a mask, (batch_size, kv_seq_len), True or 1 where a key is valid.

    ``keys``: the array that the keys are computed from. ``attn_mask``: the call's attention mask,
    which is combined with the padding. ``has_lengths``: whether the call also has ``kv_lengths``,
    which is refused.
    """
    if has_lengths:
        raise bad_value(_NAME, "is given with kv_lengths, which states the same: leave out one")
    valid = _checked(as_array(_NAME, mask), keys)
    lengths = valid.sum(axis=1)
    if (valid == (np.arange(valid.shape[1]) < lengths[:, None])).all():
        return Padding(lengths, attn_mask)
    valid_keys = valid[:, None, None, :]
    if attn_mask is None:
        return Padding(None, valid_keys)
    if attn_mask.dtype == bool:
        return Padding(None, attn_mask & valid_keys)
    return Padding(None, np.where(valid_keys, attn_mask, np.array(-np.inf, attn_mask.dtype)))


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
