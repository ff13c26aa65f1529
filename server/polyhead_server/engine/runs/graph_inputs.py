"""The inputs of a graph's runs for sequences of one key length: rows, positions, mask, past."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from polyhead_server.engine.device import contiguous
from polyhead_server.engine.runs.heads import take

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from polyhead_models.config import AttentionConfig
    from polyhead_server.call import AttentionInputs

    _Rows = NDArray[np.int64] | None

__all__ = ["ALL", "Feeds", "GraphInputs"]

Feeds = dict[str, Any]
"""Inputs by name."""
ALL = slice(None)


class GraphInputs:
    """Makes the inputs of runs for some sequences and some of their rows (None means all rows)."""

    def __init__(self, inputs: AttentionInputs, config: AttentionConfig, max_position: int) -> None:
        """``max_position``: the whole request's highest; longrope and dynamic depend on it."""
        self._inputs = inputs
        self._config = config
        self._max_position = max_position
        self.projected: tuple[NDArray[Any], ...] | None = None
        """Keys and values that an earlier run projected: (batch_size, num_kv_heads, kv_seq_len,
        head_dim or v_head_dim)."""

    def with_own_keys(self, sequences: slice, rows: _Rows, num_keys: int | None = None) -> Feeds:
        """Make inputs without cached projected keys and values.

        ``num_keys``: number of keys, the first ones; None means all keys.
        """
        inputs, keys = self._inputs, slice(num_keys)
        feeds = self._without_defaults() | {"query": take(inputs.query, sequences, rows)}
        for name, array in (("key", inputs.key), ("value", inputs.value)):
            feeds[name] = contiguous(array[sequences, keys])
        feeds |= self._positions(sequences, rows)
        if inputs.key_positions is not None:
            feeds["key_positions"] = np.ascontiguousarray(inputs.key_positions[sequences, keys])
        return feeds

    def with_projected(
        self, sequences: slice, rows: _Rows, *, has_past: bool, need_values: bool = True
    ) -> Feeds:
        """Make inputs that use projected keys and values if they are cached.

        ``has_past``: whether ``past_key`` and ``past_value`` are set even if they are empty.
        """
        inputs, config = self._inputs, self._config
        key, value = inputs.key[sequences], inputs.value[sequences]
        if not need_values:
            value = value[:, :0]
        feeds = self._without_defaults()
        if self.projected is not None:
            key, value = key[:, :0], value[:, :0]
            feeds["past_key"], feeds["past_value"] = (array[sequences] for array in self.projected)
        elif has_past:
            shape = (len(key), config.num_kv_heads, 0)
            feeds["past_key"] = np.empty((*shape, config.head_dim), config.dtype)
            feeds["past_value"] = np.empty((*shape, config.v_head_dim), config.dtype)
        feeds |= {"query": take(inputs.query, sequences, rows), "key": key, "value": value}
        if config.depends_on_index and rows is not None:
            feeds["query_index"] = rows
        feeds |= self._positions(sequences, rows)
        if inputs.key_positions is not None:
            positions = inputs.key_positions[sequences]
            feeds["key_positions"] = positions if self.projected is None else positions[:, :0]
        return feeds

    def mask(self, sequences: slice, rows: _Rows) -> Feeds:
        """Make the mask, as numbers that are added to the scores; empty without a mask."""
        mask = self._inputs.attn_mask
        if mask is None:
            return {}
        if len(mask) > 1:
            mask = mask[sequences]
        if mask.shape[2] > 1 and rows is not None:
            mask = mask[:, :, rows]
        return {"attn_mask": _additive(mask, np.dtype(self._config.dtype))}

    def no_mask(self) -> Feeds:
        """Make a mask of zeros."""
        return {"attn_mask": np.zeros((1, 1, 1, 1), self._config.dtype)}

    def _without_defaults(self) -> Feeds:
        """Make empty values for the inputs that have no default in float16 graphs."""
        config = self._config
        if config.dtype != "float16":
            return {}
        return {
            "attn_mask": np.empty((0, 0, 0, 0), np.float16),
            "past_key": np.empty((1, config.num_kv_heads, 0, config.head_dim), np.float16),
            "past_value": np.empty((1, config.num_kv_heads, 0, config.v_head_dim), np.float16),
        }

    def _positions(self, sequences: slice, rows: _Rows) -> Feeds:
        """Make the queries' positions."""
        positions, rotary = self._inputs.positions, self._config.rotary
        if rotary is None:
            return {}
        assert positions is not None
        feeds: Feeds = {"positions": take(positions, sequences, rows)}
        if rotary.depends_on_length:
            feeds["max_position"] = np.array(self._max_position, np.int64)
        return feeds


def _additive(mask: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Convert a mask to numbers that are added to the scores."""
    numbers: NDArray[Any]
    if mask.dtype == bool:
        numbers = np.where(mask, dtype.type(0), dtype.type(-np.inf))
        return numbers
    with np.errstate(over="ignore"):  # float32's lowest becomes minus infinity
        numbers = np.ascontiguousarray(mask, dtype)
    return numbers
