"""What a request asks for, in arrays: the values that travel from codec to engine and back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from polyhead.v1.attention_pb2 import DataType

__all__ = ["AttentionCall", "AttentionInputs", "AttentionOutputs", "Timing", "WeightsSelection"]


@dataclass(frozen=True, slots=True)
class WeightsSelection:
    """Which attention weights are wanted; an empty selection means all."""

    heads: tuple[int, ...]
    queries: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class AttentionCall:
    """A request as it was sent: decoded, not yet compared with any model."""

    model: str
    model_version: int
    """0: the newest."""
    request_id: str
    query: NDArray[Any]
    key: NDArray[Any] | None
    value: NDArray[Any] | None
    attn_mask: NDArray[Any] | None
    """Of bools or floats, with any number of axes."""
    kv_lengths: tuple[int, ...]
    """Empty: all keys are valid."""
    weights: WeightsSelection | None
    """None: no attention weights are wanted."""
    output_dtype: DataType.ValueType
    """Always set."""


@dataclass(frozen=True, slots=True)
class AttentionInputs:
    """A request that fits its model, in the model's own precision."""

    query: NDArray[np.float32]
    """(batch_size, q_seq_len, embed_dim)."""
    key: NDArray[np.float32]
    """(batch_size, kv_seq_len, kdim)."""
    value: NDArray[np.float32]
    """(batch_size, kv_seq_len, vdim)."""
    attn_mask: NDArray[np.float32] | None
    """Additive, with 4 axes, broadcastable to (batch_size, num_heads, q_seq_len, kv_seq_len)."""
    kv_lengths: NDArray[np.int64] | None
    """(batch_size,); None: all keys are valid."""
    weights: WeightsSelection | None


@dataclass(frozen=True, slots=True)
class AttentionOutputs:
    """What a run gave."""

    output: NDArray[np.float32]
    """(batch_size, q_seq_len, output_dim)."""
    attn_weights: NDArray[np.float32] | None
    """(batch_size, heads selected, queries selected, kv_seq_len), if wanted."""
    is_fused: bool
    """Whether every part of the run took the graph's fused branch."""

    @property
    def nbytes(self) -> int:
        """Size of all arrays, in bytes."""
        return self.output.nbytes + (0 if self.attn_weights is None else self.attn_weights.nbytes)


@dataclass(frozen=True, slots=True)
class Timing:
    """How long a run waited and took, in milliseconds."""

    queue_ms: float
    compute_ms: float
