"""Positions for a model's rotary embedding: those of the call, or 0, 1, 2 and so on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from polyhead_server.errors import InvalidRequestError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from polyhead_models.config import AttentionConfig
    from polyhead_server.call import AttentionCall

    Positions = tuple[NDArray[np.int64] | None, NDArray[np.int64] | None]

__all__ = ["prepare_positions"]

_END = 1 << 24
"""Positions are below this: float32, in which angles are computed, holds each of them exactly."""


def prepare_positions(
    call: AttentionCall, config: AttentionConfig, batch_size: int, q_seq_len: int, kv_seq_len: int
) -> Positions:
    """Give positions of queries and of keys, (batch_size, q_seq_len) and (batch_size, kv_seq_len).

    Both are None for a model without a rotary embedding, which knows no positions. Raises
    InvalidRequestError.
    """
    given = {"positions": call.positions, "key_positions": call.key_positions}
    if config.rotary is None:
        for field, array in given.items():
            if array is not None:
                raise InvalidRequestError(
                    field,
                    "is set, and the model has no rotary embedding that would use it; leave it out",
                    "NOT_APPLICABLE",
                )
        return None, None
    queries = _prepared("positions", call.positions, batch_size, "q_seq_len", q_seq_len)
    if call.key is None and call.key_positions is None:
        return queries, queries
    keys = _prepared("key_positions", call.key_positions, batch_size, "kv_seq_len", kv_seq_len)
    return queries, keys


def _prepared(
    field: str, given: NDArray[Any] | None, batch_size: int, axis: str, seq_len: int
) -> NDArray[np.int64]:
    shape = (batch_size, seq_len)
    if given is None:
        return np.ascontiguousarray(np.broadcast_to(np.arange(seq_len, dtype=np.int64), shape))
    if given.shape not in ((seq_len,), shape):
        raise InvalidRequestError(
            f"{field}.shape",
            f"expected ({axis}={seq_len}) or (batch_size={batch_size}, {axis}={seq_len}); "
            f"got {list(given.shape)}",
            "SHAPE_MISMATCH",
            expected=list(shape),
            got=list(given.shape),
        )
    least, largest = int(given.min()), int(given.max())
    if least < 0 or largest >= _END:
        raise InvalidRequestError(
            f"{field}.data",
            f"expected 0 to 2^24 - 1 = {_END - 1}; got {least if least < 0 else largest}",
            "OUT_OF_RANGE",
        )
    return np.ascontiguousarray(np.broadcast_to(given.astype(np.int64, copy=False), shape))
