"""The vectors of attention heads: which are wanted, and what came."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

from polyhead.results.attention import brief

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import DTypeLike, NDArray

__all__ = ["VECTOR_KINDS", "HeadVectors", "VectorKind", "Vectors"]

VectorKind: TypeAlias = Literal["query", "key", "value", "context"]
VECTOR_KINDS: tuple[VectorKind, ...] = get_args(VectorKind)
"""All kinds of vectors, numbered from 1 in the contract."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Vectors:
    """Which vectors of heads are wanted: what is not selected is not sent.

    The result's axes follow the selections, in the order given. One number selects one, and its
    axis stays, with length 1.
    """

    kinds: VectorKind | Sequence[VectorKind] = ("query", "key", "value")
    """Which vectors, none twice. ``query`` and ``key`` are those that are compared: projected, then
    normed and rotated if the model does that. ``value``: what the weights sum. ``context``: the
    sum, which the output projection takes; it is computed with attention, the others without."""
    heads: int | Sequence[int] = ()
    """Indices of heads, each in [0, num_heads), none twice; empty: all."""
    queries: int | Sequence[int] = ()
    """Indices of the tokens whose query and context are wanted, each in [0, q_seq_len), none twice;
    empty: all."""
    keys: int | Sequence[int] = ()
    """Indices of the tokens whose key and value are wanted, each in [0, kv_seq_len), none twice;
    empty: all."""
    dtype: DTypeLike | None = None
    """Dtype of the vectors, such as ``"float16"``; None: that of the output."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False, repr=False)
class HeadVectors:
    """Vectors of heads that were asked for. The arrays are read-only.

    ``query @ key.swapaxes(-1, -2) * spec.scale`` is what ``Weights(stage="scores")`` gives, unless
    the model has a softcap; ``attn_weights @ value`` is ``context``.
    """

    query: NDArray[Any] | None
    """(batch_size, heads, queries, head_dim); None if it was not asked for."""
    key: NDArray[Any] | None
    """(batch_size, heads, keys, head_dim). The heads are all num_kv_heads of the keys; if heads
    were selected, the one that each of them uses. Zeros for keys that are padding."""
    value: NDArray[Any] | None
    """(batch_size, heads, keys, v_head_dim), with heads and padding as in `key`."""
    context: NDArray[Any] | None
    """(batch_size, heads, queries, v_head_dim)."""
    selection: Vectors = Vectors()
    """Which vectors were asked for; all but the dtype are tuples here, empty for all."""

    def arrays(self) -> dict[VectorKind, NDArray[Any]]:
        """Return the arrays that were asked for, by kind."""
        return {kind: array for kind in VECTOR_KINDS if (array := getattr(self, kind)) is not None}

    def __repr__(self) -> str:
        return (
            f"HeadVectors(query={brief(self.query)}, key={brief(self.key)}, "
            f"value={brief(self.value)}, context={brief(self.context)})"
        )
