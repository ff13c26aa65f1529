"""Check head_vectors. _checks.py describes the errors."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from polyhead._arguments.indices import MAX_INDEX, check_indices, checked_indices
from polyhead._checks import bad_value, checked_float_dtype, invalid, is_iterable
from polyhead.results import VECTOR_KINDS, VectorKind, Vectors
from polyhead.v1 import attention_pb2 as pb

if TYPE_CHECKING:
    from numpy.typing import DTypeLike

_BOOLS = (bool, np.bool_)


class CanonicalVectors(NamedTuple):
    """The fields of Vectors, in one form for each meaning, so that a cache can use them as key."""

    kinds: tuple[VectorKind, ...]
    heads: tuple[int, ...]
    queries: tuple[int, ...]
    keys: tuple[int, ...]
    dtype: DTypeLike | None

    def selection(self) -> Vectors:
        """Convert to Vectors."""
        return Vectors(**self._asdict())


def canonical_vectors(
    head_vectors: object, argument: str = "head_vectors", field: str = "head_vectors"
) -> CanonicalVectors | None:
    """Return head_vectors as CanonicalVectors; None if no vectors are requested."""
    if isinstance(head_vectors, _BOOLS):
        if not head_vectors:
            return None
        head_vectors = Vectors()
    if not isinstance(head_vectors, Vectors):
        raise bad_value(
            argument,
            f"expected True, False or Vectors(kinds=..., heads=...); got {head_vectors!r}",
            field,
        )
    kinds = _checked_kinds(f"{argument}.kinds", head_vectors.kinds, f"{field}.kinds")
    heads, queries, keys = (
        checked_indices(f"{argument}.{name}", getattr(head_vectors, name), f"{field}.{name}")
        for name in ("heads", "queries", "keys")
    )
    return CanonicalVectors(kinds, heads, queries, keys, head_vectors.dtype)


def vectors_message(
    vectors: CanonicalVectors,
    argument: str = "head_vectors",
    field: str = "head_vectors",
    *,
    q_seq_len: int | None = None,
    kv_seq_len: int | None = None,
) -> pb.HeadVectorsSelection:
    """Make the message that selects vectors. ``q_seq_len``, ``kv_seq_len``: None if not known."""
    lengths = {"heads": None, "queries": q_seq_len, "keys": kv_seq_len}
    length_names = {"heads": "num_heads", "queries": "q_seq_len", "keys": "kv_seq_len"}
    for name, length in lengths.items():
        end_name = length_names[name] if length is None else f"{length_names[name]} = {length}"
        end = MAX_INDEX if length is None else length
        indices = getattr(vectors, name)
        check_indices(f"{argument}.{name}", f"{field}.{name}", indices, end, end_name)
    message = pb.HeadVectorsSelection(
        kinds=[VECTOR_KINDS.index(kind) + 1 for kind in vectors.kinds],  # type: ignore[misc] # its numbers
        heads=vectors.heads,
        queries=vectors.queries,
        keys=vectors.keys,
    )
    if vectors.dtype is not None:
        dtype = checked_float_dtype(f"{argument}.dtype", vectors.dtype, f"{field}.dtype")
        message.dtype = dtype
    return message


def _checked_kinds(name: str, kinds: object, field: str) -> tuple[VectorKind, ...]:
    """Return one kind or several as a tuple, in the contract's order."""
    listed = (kinds,) if isinstance(kinds, str) else kinds
    expected = ", ".join(map(repr, VECTOR_KINDS))
    if isinstance(listed, bytes) or not is_iterable(listed):
        raise bad_value(name, f"expected some of {expected}; got {kinds!r}", field)
    selected: tuple[VectorKind, ...] = tuple(listed)  # type: ignore[arg-type] # it is iterable
    for kind in selected:
        if kind not in VECTOR_KINDS:
            raise bad_value(name, f"expected some of {expected}; got {kind!r}", field)
        if selected.count(kind) > 1:
            message = f"expected each kind once; got {kind!r} more than once"
            raise invalid(name, message, field, "DUPLICATE")
    if not selected:
        raise bad_value(name, f"expected at least one of {expected}; got {kinds!r}", field)
    return tuple(kind for kind in VECTOR_KINDS if kind in selected)
