"""Runs the attention block of one layer of a whole model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from polyhead_server.call import AttentionInputs, AttentionOutputs
from polyhead_server.engine.runs.attention_run import AttentionRun

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from polyhead_server.call import WeightsSelection
    from polyhead_server.engine.model import Model, RunOptions
    from polyhead_server.head_vectors import VectorsSelection

__all__ = ["LayerAttention"]


@dataclass(frozen=True, slots=True)
class LayerAttention:
    """The attention block of a layer, with its input: sequences of one length."""

    block: Model
    query: NDArray[Any]
    """(batch_size, q_seq_len, hidden_size)."""
    key: NDArray[Any]
    """(batch_size, kv_seq_len, hidden_size): keys and values are computed from it."""
    options: RunOptions | None

    def run(
        self,
        selection: WeightsSelection | None,
        *,
        need_output: bool,
        vectors: VectorsSelection | None = None,
    ) -> AttentionOutputs:
        """Run the block for the output, for a selection of weights, and for vectors of heads."""
        positions = key_positions = None
        if self.block.config.rotary:
            positions, key_positions = _positions(self.query), _positions(self.key)
        inputs = AttentionInputs(
            query=self.query,
            key=self.key,
            value=self.key,
            attn_mask=None,
            kv_lengths=None,
            weights=selection,
            positions=positions,
            key_positions=key_positions,
            need_output=need_output,
            vectors=vectors,
        )
        return AttentionRun.on(self.block, inputs, self.options).everything()


def _positions(states: NDArray[Any]) -> NDArray[np.int64]:
    batch_size, length, _ = states.shape
    return np.ascontiguousarray(np.broadcast_to(np.arange(length), (batch_size, length)))
