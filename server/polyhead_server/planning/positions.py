"""Positions for a model's rotary embedding: the call's, or by default 0, 1, 2 and so on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from polyhead_server.errors import InvalidRequestError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from polyhead_models.config import AttentionConfig
    from polyhead_server.call import Arrays, AttentionCall

    Positions = tuple[NDArray[np.int64] | None, NDArray[np.int64] | None]

__all__ = ["check_positions", "prepare_positions"]

_END = 1 << 24
"""Positions are below this, because angles are computed in float32, which holds them exactly."""


def check_positions(call: AttentionCall, config: AttentionConfig) -> None:
    """Compare the shapes of positions with the model and the rest of the call.

    A model without a rotary embedding takes no positions. Raises InvalidRequestError.
    """
    fields = {
        "positions": (call.positions, "q_seq_len", call.q_seq_len),
        "key_positions": (call.key_positions, "kv_seq_len", call.kv_seq_len),
    }
    for field, (layout, axis, seq_len) in fields.items():
        if layout is None:
            continue
        if config.rotary is None:
            raise InvalidRequestError(
                field,
                "is set, but the model has no rotary embedding that would use it; leave it out",
                "NOT_APPLICABLE",
            )
        shape = (call.batch_size, seq_len)
        if layout.shape not in (shape[1:], shape):
            raise InvalidRequestError(
                f"{field}.shape",
                f"expected ({axis}={seq_len}) or (batch_size={call.batch_size}, "
                f"{axis}={seq_len}); got {list(layout.shape)}",
                "SHAPE_MISMATCH",
                expected=list(shape),
                got=list(layout.shape),
            )


def prepare_positions(call: AttentionCall, config: AttentionConfig, arrays: Arrays) -> Positions:
    """Return positions of queries and keys, (batch_size, q_seq_len) and (batch_size, kv_seq_len).

    Both are None for a model without a rotary embedding. Raises InvalidRequestError.
    """
    if config.rotary is None:
        return None, None
    batch_size = len(arrays["query"])
    queries = _prepared("positions", arrays, batch_size, call.q_seq_len)
    if call.key is None and call.key_positions is None:
        return queries, queries
    return queries, _prepared("key_positions", arrays, batch_size, call.kv_seq_len)


def _prepared(field: str, arrays: Arrays, batch_size: int, seq_len: int) -> NDArray[np.int64]:
    positions = arrays.get(field)
    if positions is None:
        positions = np.arange(seq_len, dtype=np.int64)
    else:
        lowest, highest = int(positions.min()), int(positions.max())
        if lowest < 0 or highest >= _END:
            raise InvalidRequestError(
                f"{field}.data",
                f"expected 0 to 2^24 - 1 = {_END - 1}; got {lowest if lowest < 0 else highest}",
                "OUT_OF_RANGE",
            )
    positions = np.broadcast_to(positions.astype(np.int64, copy=False), (batch_size, seq_len))
    return np.ascontiguousarray(positions)
