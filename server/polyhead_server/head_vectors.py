"""The vectors of attention heads: a request's selection, and the shapes of the arrays."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from polyhead.v1.tensor_pb2 import DataType
    from polyhead_models.config import AttentionConfig

__all__ = ["KINDS", "HeadVectors", "VectorsSelection"]

KINDS = ("query", "key", "value", "context")
"""Kinds of vectors, numbered from 1 in the contract."""
_BY_KEY = ("key", "value")
"""Kinds of which each key has one. Each query has one of the other kinds."""

HeadVectors: TypeAlias = "dict[str, NDArray[Any]]"
"""Arrays by kind, (batch_size, heads, queries or keys, head_dim or v_head_dim)."""


@dataclass(frozen=True, slots=True)
class VectorsSelection:
    """The vectors of heads that a request selects."""

    kinds: tuple[str, ...] = ("query", "key", "value")
    """The selected ones of KINDS."""
    heads: tuple[int, ...] = ()
    """Indices of heads; empty: all."""
    queries: tuple[int, ...] = ()
    """Indices of tokens for the kinds query and context; empty: all."""
    keys: tuple[int, ...] = ()
    """Indices of tokens for the kinds key and value; empty: all."""
    dtype: DataType.ValueType | None = None
    """Data type of the vectors; None means that of the output."""

    def heads_of(self, kind: str, config: AttentionConfig) -> tuple[int, ...]:
        """Return the selected heads; for keys and values the key heads that these heads use."""
        group = config.num_heads // config.num_kv_heads if kind in _BY_KEY else 1
        return tuple(head // group for head in self.heads)

    def positions_of(self, kind: str) -> tuple[int, ...]:
        """Return the indices of the selected tokens for a kind; empty: all."""
        return self.keys if kind in _BY_KEY else self.queries

    def shape_of(
        self, kind: str, config: AttentionConfig, batch_size: int, num_queries: int, num_keys: int
    ) -> tuple[int, int, int, int]:
        """Return the shape of the vectors of a kind, in sequences of these lengths."""
        all_heads, length = config.num_heads, num_queries
        if kind in _BY_KEY:
            all_heads, length = config.num_kv_heads, num_keys
        positions = len(self.positions_of(kind)) or length
        width = config.head_dim if kind in ("query", "key") else config.v_head_dim
        return batch_size, len(self.heads) or all_heads, positions, width

    def num_numbers(
        self, config: AttentionConfig, batch_size: int, num_queries: int, num_keys: int
    ) -> int:
        """Return the number of elements of all vectors, for sequences of these lengths."""
        lengths = num_queries, num_keys
        shapes = [self.shape_of(kind, config, batch_size, *lengths) for kind in self.kinds]
        return sum(map(math.prod, shapes))

    def within(self, num_queries: int, num_keys: int) -> VectorsSelection:
        """Return the part of the selection that exists in shorter sequences; it may be empty."""
        queries = tuple(index for index in self.queries if index < num_queries)
        keys = tuple(index for index in self.keys if index < num_keys)
        has_queries = bool(queries if self.queries else num_queries)
        has_keys = bool(keys if self.keys else num_keys)
        kinds = tuple(kind for kind in self.kinds if (has_keys if kind in _BY_KEY else has_queries))
        return replace(self, kinds=kinds, queries=queries, keys=keys)

    def zeros(
        self, config: AttentionConfig, batch_size: int, num_queries: int, num_keys: int
    ) -> HeadVectors:
        """Make the arrays for the vectors of all sequences, whose lengths may differ."""
        return {
            kind: np.zeros(
                self.shape_of(kind, config, batch_size, num_queries, num_keys), config.dtype
            )
            for kind in self.kinds
        }

    def copy(
        self,
        vectors: HeadVectors,
        to: HeadVectors,
        sequences: Any,  # noqa: ANN401 - an index
        num_queries: int,
        num_keys: int,
    ) -> None:
        """Copy the vectors of some sequences, of these lengths, to arrays of all sequences."""
        for kind, array in vectors.items():
            length = num_keys if kind in _BY_KEY else num_queries
            positions = self.positions_of(kind)
            places = [i for i, index in enumerate(positions) if index < length]
            for number, sequence in enumerate(sequences):
                to[kind][sequence][:, places or slice(length)] = array[number]
