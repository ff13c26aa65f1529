"""Domain values of a request to a whole model."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    from numpy.typing import NDArray

    from polyhead.v1.tensor_pb2 import DataType
    from polyhead_server.call import LayerName, WeightsSelection
    from polyhead_server.head_vectors import HeadVectors, VectorsSelection

__all__ = [
    "ForwardCall",
    "ForwardOutputs",
    "LayerWeights",
    "LayersRun",
    "RequestedVectors",
    "RequestedWeights",
    "TokenizedText",
]


@dataclass(frozen=True, slots=True)
class RequestedWeights:
    """The requested attention weights of one layer, or of all layers."""

    field: str
    """Path in the request, such as ``attn_weights[0]``."""
    layer: LayerName | None
    """None means each attention of each layer that runs."""
    selection: WeightsSelection
    words: tuple[str, ...] = ()
    """Words of the texts. The rows of their last tokens are selected, too."""


@dataclass(frozen=True, slots=True)
class RequestedVectors:
    """The requested vectors of heads of one layer, or of all layers."""

    field: str
    """Path in the request, such as ``head_vectors[0]``."""
    layer: LayerName | None
    """None means each attention of each layer that runs."""
    selection: VectorsSelection


@dataclass(frozen=True, slots=True)
class ForwardCall:
    """A request to a whole model. It is not checked against the model yet."""

    model: str
    model_version: int
    request_id: str
    texts: tuple[str, ...]
    text_pairs: tuple[str, ...]
    """The second text of each text; empty: each text stands alone."""
    arrays: Mapping[str, NDArray[Any]]
    """The tensors by field name; fields that are not set are missing."""
    lengths: Mapping[str, tuple[int, ...]]
    """lengths, memory_lengths and decoder_lengths; empty: all positions are valid."""
    first_layer: LayerName | None
    truncate: bool
    need_output: bool
    hidden_states: tuple[LayerName, ...]
    weights: tuple[RequestedWeights, ...]
    last_layer: int | None
    output_dtype: DataType.ValueType
    has_all_hidden_states: bool = False
    """Whether the hidden states of all layers that run are requested."""
    vectors: tuple[RequestedVectors, ...] = ()
    pads_tokens: bool = False
    """Whether the response has an entry for each token and for all padding."""


@dataclass(frozen=True, slots=True)
class TokenizedText:
    """The tokens of a text, or of a text and its second text.

    They are no objects of their own: with millions of them, Python's garbage collector stops the
    process for half a second again and again.
    """

    spellings: list[str]
    """As the vocabulary spells them."""
    ids: NDArray[np.int64]
    """(num_tokens,)"""
    spans: NDArray[np.int32]
    """(num_tokens, 2): start and end in the text, in characters; equal for special tokens."""
    text_indices: NDArray[np.int32]
    """(num_tokens,); 1: the token is from the second text, in which its span counts."""
    type_ids: NDArray[np.int32]
    """(num_tokens,): types, as the tokenizer gives them."""

    @property
    def num_tokens(self) -> int:
        """Number of tokens, special ones among them."""
        return len(self.spellings)


class LayerWeights(NamedTuple):
    """The attention weights of one layer."""

    attn_weights: NDArray[Any]
    """(batch_size, heads, queries, keys), padded with zeros."""
    top_keys: NDArray[Any] | None
    queries: NDArray[np.int32] | None = None
    """(batch_size, queries): the query of each row, if words selected rows."""


class LayersRun(NamedTuple):
    """The layers of a stack that ran."""

    stack: str
    first_layer: int
    num_layers: int


@dataclass(slots=True)
class ForwardOutputs:
    """The outputs of a whole model for a request."""

    lengths: tuple[int, ...] = ()
    """Number of valid positions of each sequence of the first stack that ran."""
    tokens: tuple[TokenizedText, ...] = ()
    output: NDArray[Any] | None = None
    hidden_states: dict[LayerName, NDArray[Any]] = field(default_factory=dict)
    weights: dict[int, LayerWeights] = field(default_factory=dict)
    """Weights by their index in the request."""
    vectors: dict[int, HeadVectors] = field(default_factory=dict)
    """Vectors of heads by their index in the request."""
    layers_run: tuple[LayersRun, ...] = ()
    has_stacks: bool = False
    """Whether the model has several stacks, so that a layer's name has its stack."""
    is_fused: bool = True
    """Whether fused operators computed all attention."""
