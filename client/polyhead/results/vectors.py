"""The vectors of attention heads: their selection, and the result."""

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
    """A selection of vectors of heads. Only the selected ones are sent.

    The result's axes follow the selections, in the order given. A single number selects one entry
    of its axis; the axis stays, with length 1.
    """

    kinds: VectorKind | Sequence[VectorKind] = ("query", "key", "value")
    """Kinds of vectors, none repeated. ``query`` and ``key``: after projection, and after norm and
    rotation if the model has them, as they enter the dot product. ``value``: the projected values.
    ``context``: the weighted sum of values, which enters the output projection. Only ``context``
    needs attention to be computed."""
    heads: int | Sequence[int] = ()
    """Indices of heads, each in [0, num_heads), without repetition; empty means all."""
    queries: int | Sequence[int] = ()
    """Indices of tokens for the kinds query and context, each in [0, q_seq_len), without
    repetition; empty means all."""
    keys: int | Sequence[int] = ()
    """Indices of tokens for the kinds key and value, each in [0, kv_seq_len), without
    repetition; empty means all."""
    dtype: DTypeLike | None = None
    """Dtype of the vectors, such as ``"float16"``; None means that of the output."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False, repr=False)
class HeadVectors:
    """The requested vectors of heads. The arrays are read-only.

    ``query @ key.swapaxes(-1, -2) * spec.scale`` equals the scores of ``Weights(stage="scores")``,
    unless the model has a softcap. ``attn_weights @ value`` equals ``context``.
    """

    query: NDArray[Any] | None
    """(batch_size, heads, queries, head_dim); None if it was not requested."""
    key: NDArray[Any] | None
    """(batch_size, heads, keys, head_dim). Without a selection the heads are the num_kv_heads heads
    of the keys. For each selected head it is the head of keys that this head uses. Keys that are
    padding are 0."""
    value: NDArray[Any] | None
    """(batch_size, heads, keys, v_head_dim), with heads and padding as in `key`."""
    context: NDArray[Any] | None
    """(batch_size, heads, queries, v_head_dim)."""
    selection: Vectors = Vectors()
    """The requested vectors; all fields but the dtype are tuples here, empty for all."""

    def arrays(self) -> dict[VectorKind, NDArray[Any]]:
        """Return the requested arrays by kind."""
        return {kind: array for kind in VECTOR_KINDS if (array := getattr(self, kind)) is not None}

    def __repr__(self) -> str:
        return (
            f"HeadVectors(query={brief(self.query)}, key={brief(self.key)}, "
            f"value={brief(self.value)}, context={brief(self.context)})"
        )
