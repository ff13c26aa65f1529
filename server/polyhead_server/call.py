"""Domain values passed between decoding, planning and execution."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from polyhead.v1.attention_pb2 import DataType
    from polyhead.wire.tensors import TensorLayout
    from polyhead_server.head_vectors import HeadVectors, VectorsSelection

__all__ = [
    "TENSORS",
    "AttentionCall",
    "AttentionInputs",
    "AttentionOutputs",
    "ExecutionInfo",
    "Arrays",
    "LayerName",
    "RunTimes",
    "Stage",
    "Timing",
    "WeightsSelection",
]


class Stage(IntEnum):
    """The point of the computation at which weights are taken; numbered as in the contract."""

    WEIGHTS = 1
    SCORES = 2
    MASKED = 3


@dataclass(frozen=True, slots=True)
class WeightsSelection:
    """The attention weights that a request selects."""

    heads: tuple[int, ...] = ()
    """Indices of heads; empty: all."""
    queries: tuple[int, ...] = ()
    """Indices of query rows; empty: all."""
    top_k: int = 0
    """Number of keys with the largest weights; 0: all keys, ordered by index."""
    average_heads: bool = False
    stage: Stage = Stage.WEIGHTS
    dtype: DataType.ValueType | None = None
    """Data type of the weights; None means that of the output."""

    @property
    def is_plain(self) -> bool:
        """Whether these are the weights of all heads and keys, as the output is computed with."""
        has_selection = self.heads or self.top_k or self.average_heads
        return not has_selection and self.stage == Stage.WEIGHTS


class LayerName(NamedTuple):
    """A layer, or the attention of a layer."""

    stack: str
    """encoder, decoder, text or vision; empty: the first stack that takes part."""
    layer: int
    kind: str = "self"
    """self or cross."""


TENSORS = ("query", "key", "value", "attn_mask", "positions", "key_positions")
"""Names of a request's tensors, in the contract's order."""


@dataclass(frozen=True)
class AttentionCall:
    """A request without its tensors' elements. It is not checked against a model yet."""

    model: str
    model_version: int
    """Version of the model; 0: the newest."""
    query: TensorLayout
    key: TensorLayout | None
    value: TensorLayout | None
    attn_mask: TensorLayout | None
    """Mask of bools or floats, with any number of axes."""
    kv_lengths: tuple[int, ...]
    """Number of valid keys of each sequence; empty: all keys are valid."""
    weights: WeightsSelection | None
    """The requested attention weights; None means no weights."""
    output_dtype: DataType.ValueType
    """Data type of the output."""
    positions: TensorLayout | None = None
    """Integers, (q_seq_len,) or (batch_size, q_seq_len)."""
    key_positions: TensorLayout | None = None
    """Integers, (kv_seq_len,) or (batch_size, kv_seq_len)."""
    need_output: bool = True
    layer: LayerName | None = None
    """The layer of a whole model; None means that the model is a block."""
    vectors: VectorsSelection | None = None
    """The requested vectors of heads; None means no vectors."""
    payloads: tuple[int, ...] = tuple(range(len(TENSORS)))
    """Index of each tensor of TENSORS among the request's payloads."""

    @cached_property
    def tensors(self) -> tuple[tuple[int, str, TensorLayout], ...]:
        """Payload index, name and layout of each tensor that is set."""
        tensors = zip(self.payloads, TENSORS, map(self._layout, TENSORS), strict=True)
        return tuple((index, name, layout) for index, name, layout in tensors if layout is not None)

    def _layout(self, name: str) -> TensorLayout | None:
        layout: TensorLayout | None = getattr(self, name)
        return layout

    @cached_property
    def batch_size(self) -> int:
        """Number of sequences."""
        return self.query.shape[0]

    @property
    def needs_context(self) -> bool:
        """Whether the heads' contexts are computed, for the output or as vectors."""
        return self.need_output or (self.vectors is not None and "context" in self.vectors.kinds)

    @property
    def q_seq_len(self) -> int:
        """Number of queries of each sequence."""
        return self.query.shape[-2]

    @property
    def kv_seq_len(self) -> int:
        """Number of keys of each sequence."""
        return (self.key or self.query).shape[-2]


Arrays = dict[str, "NDArray[Any]"]
"""A request's arrays by field name; fields that are not set are missing."""


@dataclass(frozen=True, slots=True)
class AttentionInputs:
    """The arrays of a request that fits its model, in the model's precision."""

    query: NDArray[np.float32]
    """(batch_size, q_seq_len, embed_dim)."""
    key: NDArray[np.float32]
    """(batch_size, kv_seq_len, kdim)."""
    value: NDArray[np.float32]
    """(batch_size, kv_seq_len, vdim)."""
    attn_mask: NDArray[Any] | None
    """Mask with 4 axes, broadcastable to (batch_size, num_heads, q_seq_len, kv_seq_len). Bools are
    true where a query may attend; floats, of any float type, are added to the scores."""
    kv_lengths: NDArray[np.int64] | None
    """(batch_size,); None means that all keys are valid."""
    weights: WeightsSelection | None
    positions: NDArray[np.int64] | None = None
    """(batch_size, q_seq_len); set if and only if the model has a rotary embedding."""
    key_positions: NDArray[np.int64] | None = None
    """(batch_size, kv_seq_len); set like `positions`."""
    need_output: bool = True
    """Whether the output is requested; False only if `weights` or `vectors` is set."""
    vectors: VectorsSelection | None = None


class AttentionOutputs(NamedTuple):
    """The outputs of a run."""

    output: NDArray[np.float32] | None
    """(batch_size, q_seq_len, output_dim), if requested."""
    attn_weights: NDArray[np.float32] | None
    """(batch_size, selected heads or 1, selected queries, kv_seq_len or top_k), if requested."""
    top_keys: NDArray[np.int32] | None
    """Indices of keys in the shape of attn_weights, if top_k is set."""
    is_fused: bool
    """Whether the output was computed by the graph's fused branch alone."""
    vectors: HeadVectors | None = None
    """The vectors of heads, if requested."""

    def part(self, first: int, end: int) -> AttentionOutputs:
        """Return the outputs of the sequences from ``first`` to ``end``."""
        output, attn_weights, top_keys, is_fused, vectors = self
        return AttentionOutputs(
            output=None if output is None else output[first:end],
            attn_weights=None if attn_weights is None else attn_weights[first:end],
            top_keys=None if top_keys is None else top_keys[first:end],
            is_fused=is_fused,
            vectors=vectors and {kind: array[first:end] for kind, array in vectors.items()},
        )


class ExecutionInfo(NamedTuple):
    """The model that computed a response, and its provider."""

    model: str
    version: int
    provider: str
    """ONNX Runtime's name of the execution provider."""


class Timing(NamedTuple):
    """Waiting time and run time of a request."""

    queue_ms: float
    compute_ms: float
    batch_size: int
    """Number of sequences in the run, including those of other requests."""


class RunTimes(NamedTuple):
    """The times of a request's run, in seconds of the monotonic clock, for log and traces.

    A request with several runs has the start of the first and the end of the last.
    """

    arrived_s: float
    """When the request began to wait for its run."""
    started_s: float
    ended_s: float

    def until(self, ended_s: float) -> RunTimes:
        """Return these times with a later end."""
        return self._replace(ended_s=ended_s)
