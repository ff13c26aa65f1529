"""Runs the graph for sequences of one key length: chooses branches, rows and blocks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from polyhead_server.call import AttentionInputs, AttentionOutputs, WeightsSelection
from polyhead_server.engine.cost import FLOAT_BYTES, fused_sequences

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from polyhead_models.config import AttentionConfig

__all__ = ["KeyLengthGroup", "RunGraph"]

Feeds = dict[str, Any]
RunGraph = Callable[[list[str], Feeds], list[Any]]
"""Runs the graph. Takes names of outputs and inputs by name; returns the outputs."""
_ALL = slice(None)
_TRUE = np.ones((), np.bool_)
_NO_OUTPUT = AttentionOutputs(None, None, None, is_fused=False)


class KeyLengthGroup:
    """Sequences of one key length, with their projected keys and values as soon as they exist."""

    def __init__(
        self,
        inputs: AttentionInputs,
        config: AttentionConfig,
        run_graph: RunGraph,
        *,
        max_scores_bytes: int,
        max_position: int,
    ) -> None:
        """``max_position``: highest position in the whole request, which longrope depends on."""
        self._inputs = inputs
        self._config = config
        self._run_graph = run_graph
        self._max_scores_bytes = max_scores_bytes
        self._max_position = max_position
        self._projected: tuple[NDArray[Any], ...] | None = None
        """Keys and values: (batch_size, num_kv_heads, kv_seq_len, head_dim or v_head_dim)."""

    def compute(
        self, output_rows: NDArray[np.int64] | None, weights_rows: NDArray[np.int64] | None
    ) -> AttentionOutputs:
        """Compute what the request wants: output and weights of these rows; None: all rows."""
        selection, need_output = self._inputs.weights, self._inputs.need_output
        if selection is None:
            return self._output(output_rows)
        if need_output and selection.is_plain and output_rows is weights_rows:
            output, attn_weights = self._explicit(output_rows, ["output", "attn_weights"])
            return AttentionOutputs(output, attn_weights, None, is_fused=False)
        outputs = self._output(output_rows) if need_output else _NO_OUTPUT
        attn_weights, top_keys = self._instrument(selection, weights_rows)
        return outputs._replace(attn_weights=attn_weights, top_keys=top_keys)

    def project(self) -> None:
        """Project keys and values for all later runs, unless that is done."""
        if self._projected is not None or not self._config.has_in_proj:
            return
        first = np.zeros(1, np.int64)
        names = ["projected_key", "projected_value"]
        self._keep(*self._run_graph(names, self._feeds(_ALL, first, has_past=False)))

    def _keep(self, key: NDArray[Any], value: NDArray[Any]) -> None:
        """Split keys and values, (batch_size, kv_seq_len, num_kv_heads * width), into heads."""
        config = self._config
        self._projected = tuple(
            np.ascontiguousarray(
                array.reshape(*array.shape[:2], config.num_kv_heads, width).swapaxes(1, 2)
            )
            for array, width in ((key, config.head_dim), (value, config.v_head_dim))
        )

    def _output(self, rows: NDArray[np.int64] | None) -> AttentionOutputs:
        """Compute the output alone, by the fused branch if it can and all rows are wanted."""
        inputs = self._inputs
        max_fused = fused_sequences(
            self._config,
            inputs.query.shape[1],
            inputs.key.shape[1],
            self._max_scores_bytes,
            has_mask=inputs.attn_mask is not None,
        )
        if rows is not None or not max_fused:
            (output,) = self._explicit(rows, ["output"])
            return AttentionOutputs(output, None, None, is_fused=False)
        if len(inputs.query) > max_fused:
            parts = [
                self._fused(part, ["output"])[0] for part in _slices(len(inputs.query), max_fused)
            ]
            return AttentionOutputs(np.concatenate(parts), None, None, is_fused=True)
        names = ["output"]
        if inputs.weights is not None and self._config.has_in_proj:  # the weights' run uses them
            names += ["projected_key", "projected_value"]
        output, *projected = self._fused(_ALL, names)
        if projected:
            self._keep(*projected)
        return AttentionOutputs(output, None, None, is_fused=True)

    def _fused(self, sequences: slice, names: list[str]) -> list[NDArray[Any]]:
        """Run the fused branch."""
        inputs = self._inputs
        embeddings = {"query": inputs.query, "key": inputs.key, "value": inputs.value}
        feeds = self._without_defaults()
        feeds |= {name: array[sequences] for name, array in embeddings.items()}
        return self._run_graph(names, feeds | self._positions(sequences, None))

    def _explicit(self, rows: NDArray[np.int64] | None, names: list[str]) -> list[NDArray[Any]]:
        """Run the explicit branch, which computes output and weights from one score matrix."""

        def run(sequences: slice, rows: NDArray[np.int64] | None) -> list[NDArray[Any]]:
            mask = self._mask(sequences, rows)
            if not mask and self._projected is not None:
                # the graph takes projected keys only with a mask
                mask = {"attn_mask": self._no_mask()}
            feeds = self._feeds(sequences, rows, has_past=bool(mask)) | mask
            return self._run_graph(names, feeds | {"need_weights": _TRUE})

        return self._in_blocks(run, rows, self._config.num_heads)

    def _instrument(
        self, selection: WeightsSelection, rows: NDArray[np.int64] | None
    ) -> tuple[NDArray[Any], NDArray[np.int32] | None]:
        """Run the instrument branch, which computes selected weights and nothing else."""
        heads = selection.heads or range(self._config.num_heads)
        names = ["attn_weights", "top_keys"] if selection.top_k else ["attn_weights"]
        wanted = {
            "need_weights": _TRUE,
            "heads": np.array(heads, np.int64),
            "stage": np.array(selection.stage, np.int64),
            "average_heads": np.array(selection.average_heads),
            "top_k": np.array(selection.top_k, np.int64),
            "attn_mask": self._no_mask(),
        }

        def run(sequences: slice, rows: NDArray[np.int64] | None) -> list[NDArray[Any]]:
            feeds = self._feeds(sequences, rows, has_past=True, need_values=False)
            return self._run_graph(names, feeds | wanted | self._mask(sequences, rows))

        attn_weights, *top_keys = self._in_blocks(run, rows, len(heads))
        return attn_weights, top_keys[0] if top_keys else None

    def _in_blocks(
        self,
        run: Callable[[slice, NDArray[np.int64] | None], list[NDArray[Any]]],
        rows: NDArray[np.int64] | None,
        num_heads: int,
    ) -> list[NDArray[Any]]:
        """Run everything at once if the score matrix fits the limit, else in blocks."""
        batch_size, num_queries, _ = self._inputs.query.shape
        num_rows = num_queries if rows is None else len(rows)
        row_bytes = num_heads * self._inputs.key.shape[1] * FLOAT_BYTES
        if batch_size * num_rows * row_bytes <= self._max_scores_bytes:
            return run(_ALL, rows)
        self.project()
        sequences_at_once = max(1, self._max_scores_bytes // (num_rows * row_bytes))
        rows_at_once = max(1, self._max_scores_bytes // row_bytes)
        index = np.arange(num_queries) if rows is None else rows
        results: list[NDArray[Any]] = []
        for sequences in _slices(batch_size, sequences_at_once):
            for chunk in _slices(num_rows, rows_at_once):
                block = run(sequences, index[chunk])
                if not results:
                    results = [_empty_result(array, batch_size, num_rows) for array in block]
                for result, array in zip(results, block, strict=True):
                    result[sequences, ..., chunk, :] = array
        return results

    def _feeds(
        self,
        sequences: slice,
        rows: NDArray[np.int64] | None,
        *,
        has_past: bool,
        need_values: bool = True,
    ) -> Feeds:
        """Make the inputs for these sequences and rows, with projected keys if they exist."""
        inputs, config = self._inputs, self._config
        key, value = inputs.key[sequences], inputs.value[sequences]
        if not need_values:
            value = value[:, :0]
        feeds = self._without_defaults()
        if self._projected is not None:
            key, value = key[:, :0], value[:, :0]
            feeds["past_key"], feeds["past_value"] = (array[sequences] for array in self._projected)
        elif has_past:
            shape = (len(key), config.num_kv_heads, 0)
            feeds["past_key"] = np.empty((*shape, config.head_dim), config.dtype)
            feeds["past_value"] = np.empty((*shape, config.v_head_dim), config.dtype)
        feeds |= {"query": _take(inputs.query, sequences, rows), "key": key, "value": value}
        if config.depends_on_index and rows is not None:
            feeds["query_index"] = rows
        return feeds | self._positions(sequences, rows)

    def _without_defaults(self) -> Feeds:
        """Make empty values for inputs that have no default in float16 graphs."""
        config = self._config
        if config.dtype != "float16":
            return {}
        return {
            "attn_mask": np.empty((0, 0, 0, 0), np.float16),
            "past_key": np.empty((1, config.num_kv_heads, 0, config.head_dim), np.float16),
            "past_value": np.empty((1, config.num_kv_heads, 0, config.v_head_dim), np.float16),
        }

    def _positions(self, sequences: slice, rows: NDArray[np.int64] | None) -> Feeds:
        inputs, rotary = self._inputs, self._config.rotary
        if rotary is None:
            return {}
        assert inputs.positions is not None
        assert inputs.key_positions is not None
        key_positions = inputs.key_positions[sequences]
        feeds = {
            "positions": _take(inputs.positions, sequences, rows),
            "key_positions": key_positions if self._projected is None else key_positions[:, :0],
        }
        if rotary.scaling == "longrope":
            feeds["max_position"] = np.array(self._max_position, np.int64)
        return feeds

    def _no_mask(self) -> NDArray[Any]:
        return np.zeros((1, 1, 1, 1), self._config.dtype)

    def _mask(self, sequences: slice, rows: NDArray[np.int64] | None) -> Feeds:
        mask = self._inputs.attn_mask
        if mask is None:
            return {}
        if len(mask) > 1:
            mask = mask[sequences]
        if mask.shape[2] > 1 and rows is not None:
            mask = mask[:, :, rows]
        return {"attn_mask": _additive(mask, np.dtype(self._config.dtype))}


def _take(array: NDArray[Any], sequences: slice, rows: NDArray[np.int64] | None) -> NDArray[Any]:
    return array[sequences] if rows is None else np.ascontiguousarray(array[sequences, rows])


def _additive(mask: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Convert a mask to numbers that are added to the scores."""
    numbers: NDArray[Any]
    if mask.dtype == bool:
        numbers = np.where(mask, dtype.type(0), dtype.type(-np.inf))
        return numbers
    with np.errstate(over="ignore"):  # float32's lowest becomes minus infinity
        numbers = np.ascontiguousarray(mask, dtype)
    return numbers


def _slices(count: int, max_length: int) -> Iterator[slice]:
    return (slice(start, start + max_length) for start in range(0, count, max_length))


def _empty_result(block: NDArray[Any], batch_size: int, num_rows: int) -> NDArray[Any]:
    """Allocate the array that all blocks are copied to; its last axis but one is the rows."""
    return np.empty((batch_size, *block.shape[1:-2], num_rows, block.shape[-1]), block.dtype)
