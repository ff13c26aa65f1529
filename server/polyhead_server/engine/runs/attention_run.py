"""Computes a request by one or several runs of its model's graph.

- Key lengths are applied by slicing: sequences of one length run together, with their valid keys
  only. The result equals that of a mask, and no scores of padding are computed.
- A score matrix that would exceed the limit is computed in blocks of sequences, or of rows of one
  sequence, because rows do not depend on each other. Keys and values are projected once.
- A selection of weights is computed by a separate run of the graph's instrument branch, for the
  selected rows only. The output is then computed by the fused branch.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from polyhead_server.call import AttentionInputs, AttentionOutputs, Stage, WeightsSelection
from polyhead_server.engine.runs.key_length_group import KeyLengthGroup

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from polyhead_models.config import AttentionConfig
    from polyhead_server.engine.model import Model, RunOptions
    from polyhead_server.engine.runs.key_length_group import RunGraph

    _BatchIndex = NDArray[np.int64] | slice
    """Indices of sequences in a batch."""

__all__ = ["AttentionRun"]


class AttentionRun:
    """The runs of one request. The rows are computed all at once, or block by block."""

    def __init__(
        self,
        inputs: AttentionInputs,
        config: AttentionConfig,
        run_graph: RunGraph,
        max_scores_bytes: int,
    ) -> None:
        self._inputs = inputs
        self._config = config
        max_position = 0
        if inputs.positions is not None and inputs.key_positions is not None:
            max_position = int(max(inputs.positions.max(), inputs.key_positions.max()))
        self._groups = [
            (
                sequences,
                KeyLengthGroup(
                    group_inputs,
                    config,
                    run_graph,
                    max_scores_bytes=max_scores_bytes,
                    max_position=max_position,
                ),
            )
            for sequences, group_inputs in _split_by_length(inputs)
        ]
        """Groups of sequences of one length, each with its index in the batch."""

    @classmethod
    def on(
        cls, model: Model, inputs: AttentionInputs, options: RunOptions | None = None
    ) -> AttentionRun:
        """Make the runs of a request on its model. Without options they cannot be cancelled."""
        run_graph = partial(model.run_graph, options=options)
        return cls(inputs, model.config, run_graph, model.max_scores_bytes)

    def everything(self) -> AttentionOutputs:
        """Compute the output of all rows, and the weights of the selected rows."""
        weights = self._inputs.weights
        selected = _index(weights.queries) if weights and weights.queries else None
        return self._compute(None, selected)

    @property
    def selected_rows(self) -> NDArray[np.int64]:
        """The query rows of all blocks."""
        weights = self._inputs.weights
        num_queries = self._inputs.query.shape[1]
        return _index(weights.queries if weights and weights.queries else range(num_queries))

    def block(self, rows: NDArray[np.int64]) -> AttentionOutputs:
        """Compute output and weights of these rows. The first block also projects the keys."""
        for _, group in self._groups:
            group.project()
        return self._compute(rows, rows)

    def _compute(
        self, output_rows: NDArray[np.int64] | None, weights_rows: NDArray[np.int64] | None
    ) -> AttentionOutputs:
        computed = [
            (sequences, group.compute(output_rows, weights_rows))
            for sequences, group in self._groups
        ]
        lengths = self._inputs.kv_lengths
        return computed[0][1] if lengths is None else self._assemble(computed, lengths)

    def _assemble(
        self, computed: list[tuple[_BatchIndex, AttentionOutputs]], lengths: NDArray[np.int64]
    ) -> AttentionOutputs:
        """Join the outputs of all lengths. Padding gets weight 0."""
        batch_size, kv_seq_len = len(self._inputs.query), self._inputs.key.shape[1]
        first = computed[0][1]
        output = attn_weights = top_keys = vectors = None
        if first.output is not None:
            output = np.empty((batch_size, *first.output.shape[1:]), first.output.dtype)
        if first.attn_weights is not None:
            selection = self._inputs.weights or WeightsSelection()
            width = min(selection.top_k or kv_seq_len, kv_seq_len)
            shape = (batch_size, *first.attn_weights.shape[1:3], width)
            padding = 0.0 if selection.stage == Stage.WEIGHTS else -np.inf
            attn_weights = np.full(shape, padding, first.attn_weights.dtype)
            if first.top_keys is not None:
                # padding comes last, and keys of equal weight are ordered by index
                top_keys = np.empty(shape, np.int32)
                top_keys[...] = np.arange(width, dtype=np.int32)
        num_queries, selected = self._inputs.query.shape[1], self._inputs.vectors
        if selected is not None:
            vectors = selected.zeros(self._config, batch_size, num_queries, kv_seq_len)
        for sequences, outputs in computed:
            if output is not None:
                output[sequences] = outputs.output
            if attn_weights is not None and outputs.attn_weights is not None:
                length = int(lengths[sequences][0])
                num_keys = min(length, attn_weights.shape[-1])
                attn_weights[sequences, :, :, :num_keys] = outputs.attn_weights[..., :num_keys]
                if top_keys is not None and outputs.top_keys is not None:
                    top_keys[sequences, :, :, :num_keys] = outputs.top_keys[..., :num_keys]
            if selected is not None and vectors is not None and outputs.vectors is not None:
                length = int(lengths[sequences][0])
                selected.copy(outputs.vectors, vectors, sequences, num_queries, length)
        is_fused = all(outputs.is_fused for _, outputs in computed)
        return AttentionOutputs(output, attn_weights, top_keys, is_fused, vectors)


def _index(rows: Any) -> NDArray[np.int64]:  # noqa: ANN401 - any iterable of integers
    return np.fromiter(rows, dtype=np.int64)


def _split_by_length(inputs: AttentionInputs) -> Iterator[tuple[_BatchIndex, AttentionInputs]]:
    """Yield the sequences of each length, with their index in the batch."""
    lengths = inputs.kv_lengths
    if lengths is None:
        yield slice(None), inputs
        return
    for length in np.unique(lengths):
        sequences = np.flatnonzero(lengths == length)
        yield sequences, _select_length(inputs, sequences, int(length))


def _select_length(
    inputs: AttentionInputs, sequences: NDArray[np.int64], length: int
) -> AttentionInputs:
    """Select the sequences of one length, with their valid keys only."""
    mask = inputs.attn_mask
    if length == 0:  # one masked key, for which the graph computes rows of zeros
        mask, num_keys = np.zeros((1, 1, 1, 1), np.bool_), 1
    else:
        num_keys = length
        if mask is not None:
            mask = mask[sequences] if len(mask) > 1 else mask
            mask = mask[..., :num_keys]
    positions, key_positions = inputs.positions, inputs.key_positions
    return replace(
        inputs,
        query=inputs.query[sequences],
        key=np.ascontiguousarray(inputs.key[sequences, :num_keys]),
        value=np.ascontiguousarray(inputs.value[sequences, :num_keys]),
        attn_mask=mask,
        kv_lengths=None,
        positions=None if positions is None else positions[sequences],
        key_positions=(
            None
            if key_positions is None
            else np.ascontiguousarray(key_positions[sequences, :num_keys])
        ),
        vectors=inputs.vectors and inputs.vectors.within(inputs.query.shape[1], length),
    )
