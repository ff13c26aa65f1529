"""What one stack of a whole model computes for a request, and what of it is kept."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from polyhead_server.forward_call import LayersRun

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from polyhead_models.whole_config import Stack
    from polyhead_server.call import WeightsSelection
    from polyhead_server.head_vectors import VectorsSelection

__all__ = ["PlannedVectors", "PlannedWeights", "StackPlan"]


@dataclass(frozen=True, slots=True)
class PlannedWeights:
    """The weights of one layer's attention that a request wants."""

    index: int
    """Index in the request."""
    layer: int
    kind: str
    selection: WeightsSelection
    rows: tuple[tuple[int, ...], ...] = ()
    """Query rows of each sequence, equally many; empty: those of the selection, for all."""

    def rows_of(self, sequence: int) -> tuple[int, ...]:
        """Return the query rows of one sequence; empty: all."""
        return self.rows[sequence] if self.rows else self.selection.queries


@dataclass(frozen=True, slots=True)
class PlannedVectors:
    """The vectors of heads of one layer's attention that a request wants."""

    index: int
    """Index in the request."""
    layer: int
    kind: str
    selection: VectorsSelection


@dataclass(frozen=True, slots=True)
class StackPlan:
    """What one stack computes for a request."""

    stack: Stack
    inputs: NDArray[Any]
    """The stack's input, or hidden states if ``is_hidden``; the first axis is the batch's."""
    lengths: NDArray[np.int64]
    """Valid positions of each sequence after the embedding, (batch_size,)."""
    seq_len: int
    """Positions of each sequence in the response, at least as many as the longest one's."""
    num_layers: int
    """How many layers run in full, from 0: those below ``first_layer`` are skipped."""
    first_layer: int = 0
    is_hidden: bool = False
    hidden_states: tuple[int, ...] = ()
    """Layers whose hidden states are wanted."""
    weights: tuple[PlannedWeights, ...] = ()
    vectors: tuple[PlannedVectors, ...] = ()
    need_output: bool = True
    is_finished: bool = True
    """Whether the output passes the final norm."""

    @property
    def has_partial_layer(self) -> bool:
        """Whether of the layer above only its attention runs, for weights and vectors."""
        return any(wanted.layer == self.num_layers for wanted in self.of_attention)

    @property
    def of_attention(self) -> tuple[PlannedWeights | PlannedVectors, ...]:
        """What is wanted of the layers' attention."""
        return *self.weights, *self.vectors

    def layers_run(self) -> LayersRun:
        """Return which layers run, the last one perhaps in part."""
        num_full = self.num_layers - self.first_layer
        return LayersRun(self.stack.name, self.first_layer, num_full + self.has_partial_layer)
