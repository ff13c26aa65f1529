"""The plan of one stack of a whole model: the layers that run, and the results of them."""

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
    """The requested weights of one layer's attention."""

    index: int
    """Index in the request."""
    layer: int
    kind: str
    selection: WeightsSelection
    rows: tuple[tuple[int, ...], ...] = ()
    """Query rows of each sequence, equally many; empty: the selection's rows for all sequences."""

    def rows_of(self, sequence: int) -> tuple[int, ...]:
        """Return the query rows of one sequence; empty: all."""
        return self.rows[sequence] if self.rows else self.selection.queries


@dataclass(frozen=True, slots=True)
class PlannedVectors:
    """The requested vectors of heads of one layer's attention."""

    index: int
    """Index in the request."""
    layer: int
    kind: str
    selection: VectorsSelection


@dataclass(frozen=True, slots=True)
class StackPlan:
    """The plan of one stack for a request."""

    stack: Stack
    inputs: NDArray[Any]
    """The stack's input, or hidden states if ``is_hidden``; the first axis is the batch."""
    lengths: NDArray[np.int64]
    """Number of valid positions of each sequence after the embedding, (batch_size,)."""
    seq_len: int
    """Number of positions of each sequence in the response, at least the largest length."""
    num_layers: int
    """Layers below this number run in full, from ``first_layer`` on."""
    first_layer: int = 0
    is_hidden: bool = False
    token_types: NDArray[np.int64] | None = None
    """The type of each token, in the shape of the token ids; None: the first type, or none."""
    hidden_states: tuple[int, ...] = ()
    """Layers whose hidden states are requested."""
    weights: tuple[PlannedWeights, ...] = ()
    vectors: tuple[PlannedVectors, ...] = ()
    need_output: bool = True
    is_finished: bool = True
    """Whether the output passes the final norm."""

    @property
    def has_partial_layer(self) -> bool:
        """Whether the attention of layer num_layers runs, for weights and vectors alone."""
        return any(request.layer == self.num_layers for request in self.attention_requests)

    @property
    def attention_requests(self) -> tuple[PlannedWeights | PlannedVectors, ...]:
        """The requested weights and vectors of the layers' attention."""
        return *self.weights, *self.vectors

    def layers_run(self) -> LayersRun:
        """Return the layers that run. The last one may run in part."""
        num_full = self.num_layers - self.first_layer
        return LayersRun(self.stack.name, self.first_layer, num_full + self.has_partial_layer)
