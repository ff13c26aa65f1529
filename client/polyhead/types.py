"""Descriptions of servers and models, and the configuration of TLS: frozen dataclasses.

The results of calls are defined in results/, and can be imported from here, too.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from polyhead._checks import read_file
from polyhead.results import (
    VECTOR_KINDS,
    AttentionResult,
    AttentionRows,
    Execution,
    ExplorerPage,
    ForwardResult,
    HeadVectors,
    LayerKey,
    Stage,
    VectorKind,
    Vectors,
    Weights,
)

if TYPE_CHECKING:
    from os import PathLike

__all__ = [
    "VECTOR_KINDS",
    "AttentionResult",
    "AttentionRows",
    "AttentionSpec",
    "Execution",
    "ExplorerPage",
    "ForwardResult",
    "HeadVectors",
    "LayerKey",
    "LayerSpec",
    "ModelChange",
    "ModelInfo",
    "Provenance",
    "RotarySpec",
    "ServerInfo",
    "ServerLimits",
    "StackSpec",
    "Stage",
    "TLSConfig",
    "VectorKind",
    "Vectors",
    "Weights",
    "WholeModelSpec",
]


@dataclass(frozen=True, kw_only=True, slots=True)
class TLSConfig:
    """The certificates and the key of TLS.

    Each is PEM, or the path of a PEM file, which is read when a client is made.
    """

    root_certificates: bytes | str | PathLike[str] | None = None
    """Trusted authorities, one of which must have signed the server's certificate; None means
    gRPC's list."""
    private_key: bytes | str | PathLike[str] | None = field(default=None, repr=False)
    """The client's key, if the server requires a client certificate."""
    certificate_chain: bytes | str | PathLike[str] | None = None
    """The client's certificate, together with `private_key`."""
    server_name: str | None = None
    """Name that the server's certificate must have; None means the host of the target."""

    @classmethod
    def from_files(
        cls,
        *,
        root_certificates: str | PathLike[str] | None = None,
        private_key: str | PathLike[str] | None = None,
        certificate_chain: str | PathLike[str] | None = None,
        server_name: str | None = None,
    ) -> TLSConfig:
        """Read PEM files now. Raises InvalidArgumentError if one cannot be read."""
        paths = {
            "root_certificates": root_certificates,
            "private_key": private_key,
            "certificate_chain": certificate_chain,
        }
        contents = {
            name: read_file(name, path, f"tls.{name}")
            for name, path in paths.items()
            if path is not None
        }
        return cls(server_name=server_name, **contents)


@dataclass(frozen=True, kw_only=True, slots=True)
class AttentionSpec:
    """The mathematics of an attention block."""

    embed_dim: int
    """Width of `query`."""
    num_heads: int
    """Number of attention heads."""
    head_dim: int
    """Width of each head's queries and keys."""
    kdim: int
    """Width of `key`."""
    vdim: int
    """Width of `value`."""
    output_dim: int
    """Width of `output`."""
    is_causal: bool
    """Whether query i attends only to keys 0..i."""
    scale: float
    """Factor on the scores before softmax, usually 1 / sqrt(head_dim)."""
    has_out_proj: bool
    """Whether the heads' concatenated contexts are projected to the output."""
    num_kv_heads: int
    """Number of heads of keys and values. Each is shared by num_heads / num_kv_heads consecutive
    query heads."""
    v_head_dim: int
    """Width of each head's values."""
    sliding_window: int
    """Query i attends only to keys j with |i - j| < sliding_window; 0: to keys at any distance."""
    softcap: float
    """Scaled scores x become softcap * tanh(x / softcap); 0: no softcap."""
    rotary: RotarySpec | None
    """Rotary position embedding of queries and keys; None means no rotary embedding."""
    has_alibi: bool
    """Whether scores are reduced by a slope times the distance of query and key (ALiBi)."""
    relative_buckets: int
    """Number of buckets of T5's relative position bias; 0: no such bias."""
    relative_max_distance: int
    """Keys at this distance and beyond share the last bucket of the bias."""
    has_sinks: bool
    """Whether each head has a learned score (sink) beside the scores of the keys. The sink takes a
    share of the softmax, and has no value."""
    qk_norm_eps: float
    """Epsilon of the RMSNorm of every head's queries and keys; 0: no norm."""
    has_in_proj: bool
    """Whether query, key and value are projected. If not, the caller sends heads."""
    precision: str
    """The precision of the computation: ``float32``, ``float16`` or ``int8`` (projections only)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RotarySpec:
    """A rotary position embedding."""

    dim: int
    """Number of leading dimensions of each head that are rotated."""
    theta: float
    """Base of the geometric series of wavelengths."""
    is_interleaved: bool
    """Which dimensions form a pair: 2i and 2i + 1 if True, i and i + dim / 2 if False."""
    scaling: str
    """The scaling for long sequences: ``none``, ``linear``, ``dynamic``, ``llama3``, ``yarn`` or
    ``longrope``."""
    factor: float
    """Ratio of the longest sequence to the longest one in training."""
    original_max_positions: int = 0
    """Longest sequence in training (dynamic, llama3, yarn, longrope). With longrope, calls with a
    position at or above it use long_pair_frequencies. With dynamic, a longer call of n positions
    multiplies theta by (factor * n / original_max_positions - factor + 1) ** (dim / (dim - 2)).
    0: the scaling does not depend on it."""
    attention_factor: float = 1.0
    """Factor on rotated queries and on rotated keys."""
    pair_frequencies: tuple[float, ...] = ()
    """Rotation of each of the dim / 2 pairs per position, in radians; empty: theta ** (-2 * i /
    dim) for pair i, divided by ``factor`` with linear scaling."""
    long_pair_frequencies: tuple[float, ...] = ()
    """The same for calls with a position at or above original_max_positions (longrope)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LayerSpec:
    """The attention blocks of a layer."""

    self_attention: AttentionSpec
    """The self-attention."""
    cross_attention: AttentionSpec | None
    """The cross-attention to the encoder's output; None if the layer has none."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StackSpec:
    """A stack of layers: an encoder, a decoder or a tower."""

    name: str
    """encoder, decoder, text or vision."""
    input: str
    """The stack's input: token_ids, pixel_values or input_features. With a tokenizer, texts are
    accepted in place of token_ids."""
    hidden_size: int
    """Width of the hidden states."""
    output_size: int
    """Width of the output."""
    vocab_size: int
    """Number of token ids; 0 if the input is not tokens."""
    max_length: int
    """Number of positions of the model. Longer sequences of tokens are refused. For images and
    spectrograms: the number of their positions. 0: any length."""
    trained_length: int = 0
    """Longest sequence of tokens in training: the smaller number of config.json and the tokenizer's
    configuration. Longer sequences up to ``max_length`` run, mostly with poor results.
    ``truncate=True`` cuts texts to this length. 0: neither file states it."""
    input_shape: tuple[int, ...]
    """Lengths of the input's axes after the first, if it is not tokens; 0: any length."""
    patch_size: tuple[int, ...] = ()
    """Height and width of a patch, if images may have any size of at least one patch. Pixels beyond
    the last whole patch are ignored. Empty: images must have ``input_shape``."""
    num_image_tokens: int = 0
    """Number of an image's positions before its patches (class token, registers), if images may
    have any size."""
    start_token_id: int | None = None
    """Token id that the decoder's sequences begin with: ``decoder_start_token_id`` in config.json,
    or its default. None: none is stated, or the stack does not attend to an encoder."""
    num_token_types: int = 0
    """Number of token types, which say to which of two texts a token belongs; 0: the model has
    none."""
    layers: tuple[LayerSpec, ...]
    """The layers, in the order in which they run."""

    @property
    def num_layers(self) -> int:
        """Number of layers."""
        return len(self.layers)


@dataclass(frozen=True, kw_only=True, slots=True)
class WholeModelSpec:
    """The structure of a whole model."""

    stacks: tuple[StackSpec, ...]
    """The stacks: one stack, two towers, or an encoder and a decoder that attends to it."""
    has_tokenizer: bool
    """Whether the model takes texts."""
    int8: tuple[str, ...] = ()
    """Kinds of matrices in int8: ``projections`` (the attention's), ``up`` and ``down`` (the
    feed-forward network's)."""
    weights_error: float = 0.0
    """Largest difference of an attention weight from the same model in float32, which the exporter
    measured on random input; 0 if no matrix is int8."""
    truncation_side: str = ""
    """The end of a text that ``truncate=True`` cuts off: ``right`` or ``left``; empty if the model
    takes no texts."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Provenance:
    """The origin of a model's weights, as the exporter recorded it."""

    source: str
    """The exported source, such as ``checkpoint all-MiniLM-L6-v2`` or ``random``."""
    family: str
    """The model family, such as ``bert``; empty if there is none."""
    layer: str
    """The layer of the source, such as ``encoder.layer.0``; empty if there is none."""
    weights_sha256: str
    """SHA-256 of the weights, in hexadecimal."""
    exporter: str
    """The exporting software, such as ``polyhead 0.1.0``."""
    precision_error: float
    """The output's relative error against float32: the norm of the difference divided by the norm
    of the output. A block is measured on random embeddings of unit variance, a whole model on
    random input. 0 in float32, and for whole models in float16."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelInfo:
    """A model in a server's repository: an attention block, or a whole model."""

    name: str
    """The model's name."""
    version: int
    """The model's version."""
    is_ready: bool
    """Whether the model can be called."""
    state_reason: str
    """Why the model cannot be called, or why its changed files are not served yet; else empty."""
    spec: AttentionSpec | None
    """The block's mathematics; None for a whole model, and if the server could not read the
    model."""
    provenance: Provenance | None
    """The origin of the weights; None if the server could not read the model."""
    providers: tuple[str, ...]
    """ONNX Runtime's execution providers, the preferred one first."""
    whole: WholeModelSpec | None = None
    """The structure of a whole model; None for a block."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelChange:
    """The result of a reload for one version of a model."""

    name: str
    """The model's name."""
    version: int
    """The model's version."""
    outcome: str
    """"loaded", "removed", or "failed". After "failed" the version that was served before is still
    served. "unspecified" stands for an outcome of a newer server."""
    reason: str
    """Why it failed; empty for other outcomes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ServerLimits:
    """The limits of a server. Each has the name of the flag that sets it."""

    max_request_bytes: int
    """Largest request message."""
    max_response_bytes: int
    """Largest response message."""
    max_scores_bytes: int
    """Largest matrix of attention scores that the server holds for one request. A request that
    needs a larger one is computed in blocks of sequences and query rows. One row, num_heads x
    kv_seq_len x 4 bytes, must fit."""
    max_queue_size: int
    """Most requests that may wait for their run; more are refused."""
    max_queue_bytes: int
    """Most bytes that the server holds at once: of requests that wait or run, and of the blocks and
    projections of attend_rows. Requests beyond it are refused."""
    max_concurrent_runs: int
    """Most requests that run at once, besides very small ones."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ServerInfo:
    """A server."""

    version: str
    """polyhead's version."""
    onnxruntime_version: str
    """ONNX Runtime's version."""
    providers: tuple[str, ...]
    """ONNX Runtime's execution providers, the preferred one first."""
    limits: ServerLimits
    """The limits of requests."""
