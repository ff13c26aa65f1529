"""What describes servers and models, and how to reach them: frozen dataclasses.

What calls give is in results/, and is found here too.
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
    """How to trust a server, and how to be trusted by it.

    Each is PEM, or the path of a PEM file, which is read when a client is made.
    """

    root_certificates: bytes | str | PathLike[str] | None = None
    """Authorities that may have signed the server's certificate; None: gRPC's own list."""
    private_key: bytes | str | PathLike[str] | None = field(default=None, repr=False)
    """The client's key, if the server asks for a client certificate."""
    certificate_chain: bytes | str | PathLike[str] | None = None
    """The client's certificate, together with `private_key`."""
    server_name: str | None = None
    """Name that the server's certificate must have; None: the host of the target."""

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
    """Whether query i sees only keys 0..i."""
    scale: float
    """Factor on the scores before softmax, usually 1 / sqrt(head_dim)."""
    has_out_proj: bool
    """Whether the heads' concatenated contexts are projected to the output."""
    num_kv_heads: int
    """Number of heads of keys and values, each shared by num_heads / num_kv_heads query heads
    that follow each other."""
    v_head_dim: int
    """Width of each head's values."""
    sliding_window: int
    """Query i sees only keys j with |i - j| < sliding_window; 0: keys at any distance."""
    softcap: float
    """Scaled scores x become softcap * tanh(x / softcap); 0: they stay."""
    rotary: RotarySpec | None
    """Rotary position embedding of queries and keys; None: there is none."""
    has_alibi: bool
    """Whether scores lose a slope times the distance between query and key (ALiBi)."""
    relative_buckets: int
    """Number of buckets of T5's relative position bias; 0: there is none."""
    relative_max_distance: int
    """Distance from which on all keys share that bias's last bucket."""
    has_sinks: bool
    """Whether each head has a learned score beside those of the keys, which takes its share of
    the softmax and gives nothing."""
    qk_norm_eps: float
    """Epsilon of the RMSNorm of every head's queries and keys; 0: there is no norm."""
    has_in_proj: bool
    """Whether query, key and value are projected; without, the caller sends heads."""
    precision: str
    """What the block computes with: ``float32``, ``float16`` or ``int8`` (projections only)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RotarySpec:
    """A rotary position embedding."""

    dim: int
    """Leading dimensions of each head that are rotated."""
    theta: float
    """Base of the geometric series of wavelengths."""
    is_interleaved: bool
    """Which dimensions form a pair: 2i and 2i + 1 if true, i and i + dim / 2 if not."""
    scaling: str
    """How it is stretched to long sequences: ``none``, ``linear``, ``llama3``, ``yarn`` or
    ``longrope``."""
    factor: float
    """How many times longer sequences may be than in training."""
    original_max_positions: int = 0
    """Longest sequence in training (llama3, yarn, longrope). Calls with a position from it on use
    longrope's other frequencies. 0: the scaling does not depend on it."""
    attention_factor: float = 1.0
    """Factor on rotated queries and on rotated keys."""
    pair_frequencies: tuple[float, ...] = ()
    """Radians that each of the dim / 2 pairs turns per position; (): theta ** (-2 * i / dim) for
    pair i, divided by ``factor`` with scaling linear."""
    long_pair_frequencies: tuple[float, ...] = ()
    """The same for calls with a position from original_max_positions on (longrope)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LayerSpec:
    """The attention blocks of a layer."""

    self_attention: AttentionSpec
    """Its self-attention."""
    cross_attention: AttentionSpec | None
    """Its cross-attention to the encoder's output; None: it has none."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StackSpec:
    """Layers one above the other."""

    name: str
    """encoder, decoder, text or vision."""
    input: str
    """What the stack takes: token_ids, pixel_values or input_features. With a tokenizer token_ids
    may be text."""
    hidden_size: int
    """Width of the hidden states."""
    output_size: int
    """Width of the output."""
    vocab_size: int
    """Number of token ids; 0: the input is not tokens."""
    max_length: int
    """Longest sequence of tokens, because the model has no more positions; longer ones are refused.
    Of images and spectrograms, the number of their positions. 0: any length."""
    trained_length: int = 0
    """Longest sequence of tokens that the model is made for: the smaller one of what config.json
    and the tokenizer's configuration state. Longer ones run unless ``max_length`` forbids it,
    mostly with poor results. ``truncate=True`` cuts texts to it. 0: none is stated."""
    input_shape: tuple[int, ...]
    """Axes of the input after the first, if it is not tokens; 0: any length."""
    patch_size: tuple[int, ...] = ()
    """Height and width of a patch, if images may have any size: they must have at least a patch
    each way, and pixels beyond the last whole patch are ignored. (): ``input_shape`` is the only
    size."""
    num_image_tokens: int = 0
    """Positions of such an image before its patches: class token and registers."""
    start_token_id: int | None = None
    """Token id that the decoder's sequences begin with: ``decoder_start_token_id`` in config.json,
    or its default. None: none is stated, or the stack does not attend to an encoder."""
    layers: tuple[LayerSpec, ...]
    """The layers, in the order in which they run."""

    @property
    def num_layers(self) -> int:
        """Number of layers."""
        return len(self.layers)


@dataclass(frozen=True, kw_only=True, slots=True)
class WholeModelSpec:
    """What a whole model consists of."""

    stacks: tuple[StackSpec, ...]
    """Its stacks: one, two towers, or an encoder and the decoder that attends to it."""
    has_tokenizer: bool
    """Whether it takes texts."""
    int8: tuple[str, ...] = ()
    """Kinds of matrices that multiply 8-bit integers: ``projections`` (the attention's), ``up`` and
    ``down`` (the feed-forward network's)."""
    weights_error: float = 0.0
    """Largest difference of an attention weight from the same model's in float32, on random input,
    as the exporter measured it; 0 if no matrix is int8."""
    truncation_side: str = ""
    """Which end of a text ``truncate=True`` cuts off: ``right`` or ``left``; empty: the model takes
    no texts."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Provenance:
    """Where a model's weights came from, as its exporter recorded it."""

    source: str
    """What was exported, such as ``checkpoint all-MiniLM-L6-v2`` or ``random``."""
    family: str
    """The model family, such as ``bert``; empty if there is none."""
    layer: str
    """Which layer of the source, such as ``encoder.layer.0``; empty if there is none."""
    weights_sha256: str
    """SHA-256 of the weights, in hexadecimal."""
    exporter: str
    """The software that exported it, such as ``polyhead 0.1.0``."""
    precision_error: float
    """How far the output is from the same block's in float32, on random embeddings of unit
    variance, or from the same whole model's, on random input: the norm of the difference relative
    to the norm of the output; 0 in float32, and of whole models in float16."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelInfo:
    """A model in a server's repository: an attention block, or a whole model."""

    name: str
    """Its name."""
    version: int
    """Its version."""
    is_ready: bool
    """Whether it can be called."""
    state_reason: str
    """Why it cannot be called, or is served as it was before its files changed; else empty."""
    spec: AttentionSpec | None
    """The block's mathematics; None if the server could not read the model, or it is no block."""
    provenance: Provenance | None
    """Where its weights came from; None if the server could not read the model."""
    providers: tuple[str, ...]
    """ONNX Runtime's names for what it runs on, the one preferred first."""
    whole: WholeModelSpec | None = None
    """What a whole model consists of; None if it is a block."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelChange:
    """What a reload did with a version of a model."""

    name: str
    """The model's name."""
    version: int
    """The model's version."""
    outcome: str
    """"loaded", "removed", or "failed": what was served before is served on. "unspecified": another
    one, of a newer server."""
    reason: str
    """Why it failed; empty if it did not."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ServerLimits:
    """What a server enforces, each limit named after the flag that sets it."""

    max_request_bytes: int
    """Largest request message."""
    max_response_bytes: int
    """Largest response message."""
    max_scores_bytes: int
    """Largest matrix of attention scores that the server holds for one request. Where a request
    needs a larger one, it is computed in blocks of sequences and query rows; one row,
    num_heads x kv_seq_len x 4 bytes, must fit."""
    max_queue_size: int
    """Most requests that may wait for their run; more are refused."""
    max_queue_bytes: int
    """Most bytes that the server holds at once of requests, waiting or running, and of the blocks
    and projections of attend_rows; more are refused."""
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
    """ONNX Runtime's names for what models run on, the one preferred first."""
    limits: ServerLimits
    """Everything a request can run into."""
