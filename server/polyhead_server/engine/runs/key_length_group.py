"""Runs the graph for sequences of one key length: selects branches, rows and blocks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from polyhead_server.call import AttentionInputs, AttentionOutputs, WeightsSelection
from polyhead_server.engine.cost import FLOAT_BYTES, fused_sequences
from polyhead_server.engine.device import DeviceTensor
from polyhead_server.engine.runs.graph_inputs import ALL, Feeds, GraphInputs
from polyhead_server.engine.runs.heads import names_by_row, select_vectors, split, take

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from polyhead_models.config import AttentionConfig
    from polyhead_server.head_vectors import HeadVectors, VectorsSelection

__all__ = ["KeyLengthGroup", "RunGraph"]

RunGraph = Callable[[list[str], Feeds], list[Any]]
"""Runs the graph: takes names of outputs, and inputs by name; returns the outputs."""
_FIRST_ROW = np.zeros(1, np.int64)
_TRUE = np.ones((), np.bool_)
_NO_OUTPUT = AttentionOutputs(None, None, None, is_fused=False)


class KeyLengthGroup:
    """Sequences of one key length. Projected keys and values are cached for later runs."""

    def __init__(
        self,
        inputs: AttentionInputs,
        config: AttentionConfig,
        run_graph: RunGraph,
        *,
        max_scores_bytes: int,
        max_position: int,
    ) -> None:
        """``max_position``: the whole request's highest; longrope and dynamic depend on it."""
        self._inputs = inputs
        self._config = config
        self._run_graph = run_graph
        self._max_scores_bytes = max_scores_bytes
        self._feeds = GraphInputs(inputs, config, max_position)
        self._by_row: dict[str, NDArray[Any]] = {}
        """Queries and contexts of all rows, heads side by side, from a run for the output."""

    def compute(
        self, output_rows: NDArray[np.int64] | None, weights_rows: NDArray[np.int64] | None
    ) -> AttentionOutputs:
        """Compute output and weights of some rows (None means all), and the requested vectors."""
        outputs = self._attend(output_rows, weights_rows)
        selection = self._inputs.vectors
        return outputs if selection is None else outputs._replace(vectors=self._vectors(selection))

    def _attend(
        self, output_rows: NDArray[np.int64] | None, weights_rows: NDArray[np.int64] | None
    ) -> AttentionOutputs:
        selection, need_output = self._inputs.weights, self._inputs.need_output
        if selection is None:
            return self._output(output_rows) if need_output else _NO_OUTPUT
        if need_output and selection.is_plain and output_rows is weights_rows:
            names = ["output", "attn_weights", *self._names_by_row]
            output, attn_weights, *by_row = self._explicit(output_rows, names)
            self._by_row = dict(zip(names[2:], by_row, strict=True))
            return AttentionOutputs(output, attn_weights, None, is_fused=False)
        outputs = self._output(output_rows) if need_output else _NO_OUTPUT
        attn_weights, top_keys = self._instrument(selection, weights_rows)
        return outputs._replace(attn_weights=attn_weights, top_keys=top_keys)

    def project(self) -> None:
        """Project keys and values for all later runs, unless they are cached."""
        if self._feeds.projected is not None or not self._config.has_in_proj:
            return
        names = ["projected_key", "projected_value"]
        self._set_projected(*self._run_graph(names, self._feeds.with_own_keys(ALL, _FIRST_ROW)))

    def _set_projected(self, key: NDArray[Any], value: NDArray[Any]) -> None:
        """Cache keys and values, split into heads.

        They are (batch_size, kv_seq_len, num_kv_heads * width).
        """
        config = self._config
        self._feeds.projected = tuple(
            np.ascontiguousarray(
                array.reshape(*array.shape[:2], config.num_kv_heads, width).swapaxes(1, 2)
            )
            for array, width in ((key, config.head_dim), (value, config.v_head_dim))
        )

    def _output(self, rows: NDArray[np.int64] | None) -> AttentionOutputs:
        """Compute the output alone, by the fused branch if possible and for all rows."""
        names = ["output", *self._names_by_row]
        (output, *by_row), is_fused = self._by_rows(rows, names)
        self._by_row = dict(zip(names[1:], by_row, strict=True))
        return AttentionOutputs(output, None, None, is_fused)

    @property
    def _names_by_row(self) -> list[str]:
        """Names of the outputs for vectors that a run for the output computes as well."""
        selection = self._inputs.vectors
        return names_by_row(selection, self._config) if selection else []

    def _by_rows(
        self, rows: NDArray[np.int64] | None, names: list[str]
    ) -> tuple[list[NDArray[Any]], bool]:
        """Compute outputs that depend on attention; also return whether the fused branch did."""
        inputs = self._inputs
        max_fused = fused_sequences(
            self._config,
            inputs.query.shape[1],
            inputs.key.shape[1],
            self._max_scores_bytes,
            has_mask=inputs.attn_mask is not None,
        )
        if rows is not None or not max_fused:
            return self._explicit(rows, names), False
        if len(inputs.query) > max_fused:
            parts = [self._fused(part, names) for part in _slices(len(inputs.query), max_fused)]
            return [np.concatenate(part) for part in zip(*parts, strict=True)], True
        kinds = inputs.vectors.kinds if inputs.vectors else ()
        is_on_device = isinstance(inputs.query, DeviceTensor)  # projecting again beats copying
        need_projected = "key" in kinds or "value" in kinds or (inputs.weights and not is_on_device)
        if not (need_projected and self._config.has_in_proj):
            return self._fused(ALL, names), True
        # the run for the weights uses projected keys and values, and vectors are taken from them
        *arrays, key, value = self._fused(ALL, [*names, "projected_key", "projected_value"])
        self._set_projected(key, value)
        return arrays, True

    def _fused(self, sequences: slice, names: list[str]) -> list[NDArray[Any]]:
        """Run the fused branch."""
        return self._run_graph(names, self._feeds.with_own_keys(sequences, None))

    def _explicit(self, rows: NDArray[np.int64] | None, names: list[str]) -> list[NDArray[Any]]:
        """Run the explicit branch, which computes output and weights from one score matrix."""

        def run(sequences: slice, rows: NDArray[np.int64] | None) -> list[NDArray[Any]]:
            mask = self._feeds.mask(sequences, rows)
            if not mask and self._feeds.projected is not None:
                # the graph takes projected keys with a mask only
                mask = self._feeds.no_mask()
            feeds = self._feeds.with_projected(sequences, rows, has_past=bool(mask)) | mask
            return self._run_graph(names, feeds | {"need_weights": _TRUE})

        return self._in_blocks(run, rows, self._config.num_heads)

    def _instrument(
        self, selection: WeightsSelection, rows: NDArray[np.int64] | None
    ) -> tuple[NDArray[Any], NDArray[np.int32] | None]:
        """Run the instrument branch, which computes selected weights alone."""
        heads = selection.heads or range(self._config.num_heads)
        names = ["attn_weights", "top_keys"] if selection.top_k else ["attn_weights"]
        instrument_feeds = {
            "need_weights": _TRUE,
            "heads": np.array(heads, np.int64),
            "stage": np.array(selection.stage, np.int64),
            "average_heads": np.array(selection.average_heads),
            "top_k": np.array(selection.top_k, np.int64),
        }

        def run(sequences: slice, rows: NDArray[np.int64] | None) -> list[NDArray[Any]]:
            mask = self._feeds.mask(sequences, rows) or self._feeds.no_mask()
            feeds = self._feeds.with_projected(sequences, rows, has_past=True, need_values=False)
            return self._run_graph(names, feeds | instrument_feeds | mask)

        attn_weights, *top_keys = self._in_blocks(run, rows, len(heads))
        return attn_weights, top_keys[0] if top_keys else None

    def _vectors(self, selection: VectorsSelection) -> HeadVectors:
        """Compute vectors of heads, except those that other runs have computed."""
        config, kinds = self._config, selection.kinds
        rows = np.array(selection.queries, np.int64) if selection.queries else None
        arrays = {name: take(array, ALL, rows) for name, array in self._by_row.items()}
        names = [name for name in names_by_row(selection, config) if name not in arrays]
        if "context" in names:
            arrays |= zip(names, self._by_rows(rows, names)[0], strict=True)
        elif names:  # queries do not depend on keys, so one key is enough
            feeds = self._feeds.with_own_keys(ALL, rows, num_keys=1)
            arrays |= zip(names, self._run_graph(names, feeds), strict=True)
        arrays.setdefault("projected_query", take(self._inputs.query, ALL, rows))
        heads: HeadVectors = {}
        if "query" in kinds:
            heads["query"] = split(arrays["projected_query"], config.num_heads)
        if "context" in kinds:
            heads["context"] = split(arrays["context"], config.num_heads)
        if {"key", "value"} & {*kinds}:
            heads["key"], heads["value"] = self._keys_and_values()
        return {kind: select_vectors(heads[kind], kind, selection, config) for kind in kinds}

    def _keys_and_values(self) -> tuple[NDArray[Any], ...]:
        """Return keys and values as they enter attention, by head."""
        self.project()
        if self._feeds.projected is not None:
            return self._feeds.projected
        inputs, config = self._inputs, self._config
        key = inputs.key
        if "key" in config.changed_inputs:  # rotated, but not projected
            feeds = self._feeds.with_own_keys(ALL, _FIRST_ROW)
            (key,) = self._run_graph(["projected_key"], feeds)
        return split(key, config.num_kv_heads), split(inputs.value, config.num_kv_heads)

    def _in_blocks(
        self,
        run: Callable[[slice, NDArray[np.int64] | None], list[NDArray[Any]]],
        rows: NDArray[np.int64] | None,
        num_heads: int,
    ) -> list[NDArray[Any]]:
        """Run all rows at once if the score matrix fits the limit, else in blocks."""
        batch_size, num_queries, _ = self._inputs.query.shape
        num_rows = num_queries if rows is None else len(rows)
        row_bytes = num_heads * self._inputs.key.shape[1] * FLOAT_BYTES
        if batch_size * num_rows * row_bytes <= self._max_scores_bytes:
            return run(ALL, rows)
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


def _slices(count: int, max_length: int) -> Iterator[slice]:
    return (slice(start, start + max_length) for start in range(0, count, max_length))


def _empty_result(block: NDArray[Any], batch_size: int, num_rows: int) -> NDArray[Any]:
    """Allocate the array that all blocks are copied to. Its second-last axis is the rows."""
    return np.empty((batch_size, *block.shape[1:-2], num_rows, block.shape[-1]), block.dtype)
