"""The reference's operations on heads of queries, keys and values.

Heads always have the shape (batch_size, num_heads, seq_len, head_dim).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from polyhead_models.rotary import cosines_and_sines, highest_position

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from polyhead_models.rotary import Rotary

__all__ = ["concatenate_heads", "rms_norm", "rotate_both", "share_heads", "split_heads"]


def split_heads(x: NDArray[np.float64], num_heads: int, head_dim: int) -> NDArray[np.float64]:
    """(batch_size, seq_len, num_heads x head_dim) to (batch_size, num_heads, seq_len, head_dim)."""
    return x.reshape(*x.shape[:2], num_heads, head_dim).swapaxes(1, 2)


def concatenate_heads(heads: NDArray[np.float64]) -> NDArray[np.float64]:
    """(batch_size, num_heads, seq_len, head_dim) to (batch_size, seq_len, num_heads x head_dim)."""
    batch_size, num_heads, seq_len, head_dim = heads.shape
    return heads.swapaxes(1, 2).reshape(batch_size, seq_len, num_heads * head_dim)


def share_heads(heads: NDArray[np.float64], num_heads: int) -> NDArray[np.float64]:
    """Repeat each head of keys or values for the consecutive query heads that share it.

    Ainslie et al., "GQA: Training Generalized Multi-Query Transformer Models", 2023.
    """
    return np.repeat(heads, num_heads // heads.shape[1], axis=1)


def rms_norm(
    heads: NDArray[np.float64], weight: NDArray[np.float32], eps: float
) -> NDArray[np.float64]:
    """Divide each head's row by its root mean square, and multiply it by the weight.

    Zhang and Sennrich, "Root Mean Square Layer Normalization", 2019; on queries and keys as in
    Qwen3.
    """
    mean_square: NDArray[np.float64] = np.mean(heads**2, axis=-1, keepdims=True)
    return heads / np.sqrt(mean_square + eps) * weight.astype(np.float64)


def rotate_both(
    rotary: Rotary,
    q: NDArray[np.float64],
    k: NDArray[np.float64],
    positions: ArrayLike | None,
    key_positions: ArrayLike | None,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Rotate queries and keys by their positions."""
    q_positions = _positions(positions, q)
    k_positions = _positions(key_positions, k)
    max_position = highest_position(q_positions, k_positions)
    return (
        _rotate(rotary, q, q_positions, max_position),
        _rotate(rotary, k, k_positions, max_position),
    )


def _positions(positions: ArrayLike | None, heads: NDArray[np.float64]) -> NDArray[np.int64]:
    """Fill in the default positions: (batch_size, seq_len)."""
    batch_size, _, seq_len, _ = heads.shape
    if positions is None:
        positions = np.arange(seq_len)
    return np.broadcast_to(np.asarray(positions, dtype=np.int64), (batch_size, seq_len))


def _rotate(
    rotary: Rotary, heads: NDArray[np.float64], positions: NDArray[np.int64], max_position: int
) -> NDArray[np.float64]:
    """Turn each pair of a head's leading dimensions by its angle; the rest stay unrotated.

    Su et al., "RoFormer: Enhanced Transformer with Rotary Position Embedding", 2021, section 3.2.
    """
    cos, sin = cosines_and_sines(rotary, positions, max_position=max_position)
    cos, sin = cos[:, np.newaxis], sin[:, np.newaxis]  # the same for all heads
    half = rotary.dim // 2
    if rotary.is_interleaved:
        first, second = slice(0, rotary.dim, 2), slice(1, rotary.dim, 2)
    else:
        first, second = slice(0, half), slice(half, rotary.dim)
    x, y = heads[..., first], heads[..., second]
    rotated = heads.copy()
    rotated[..., first] = x * cos - y * sin
    rotated[..., second] = x * sin + y * cos
    return rotated
