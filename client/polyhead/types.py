"""What calls take and give besides arrays: frozen dataclasses, made once and never changed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

__all__ = [
    "AttentionResult",
    "AttentionSpec",
    "AttnWeights",
    "Execution",
    "ModelInfo",
    "Provenance",
    "ServerInfo",
    "ServerLimits",
    "TLSConfig",
]


@dataclass(frozen=True, kw_only=True, slots=True)
class TLSConfig:
    """How to trust a server, and how to be trusted by it. Each is PEM, as read from a file."""

    root_certificates: bytes | None = None
    """Authorities that may have signed the server's certificate; None: gRPC's own list."""
    private_key: bytes | None = None
    """The client's key, if the server asks for a client certificate."""
    certificate_chain: bytes | None = None
    """The client's certificate, together with `private_key`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AttnWeights:
    """Which attention weights are wanted: only those are computed into the reply and sent.

    The result's axes follow the selections, in the order given.
    """

    heads: Sequence[int] = ()
    """Indices of heads, each in [0, num_heads), none twice; empty: all."""
    queries: Sequence[int] = ()
    """Indices of query rows, each in [0, q_seq_len), none twice; empty: all."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Execution:
    """How a call was executed."""

    model: str
    """Name of the model that ran."""
    model_version: int
    """Its version."""
    provider: str
    """ONNX Runtime's name for what it ran on, such as ``CPUExecutionProvider``."""
    kernel: str
    """``fused``: never held a q_seq_len x kv_seq_len matrix; ``explicit``: did, as masks and
    weights need; empty if the server did not say."""
    queue_ms: float
    """Time from the request having been checked to the start of its run."""
    compute_ms: float
    """Time the run took."""
    batch_size: int
    """Number of sequences that ran together, this request's included."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False, repr=False)
class AttentionResult:
    """What one call of an attention block gave. The arrays are read-only."""

    output: NDArray[Any]
    """(batch_size, q_seq_len, output_dim): the block's output."""
    attn_weights: NDArray[Any] | None
    """(batch_size, heads selected, queries selected, kv_seq_len): each row sums to 1, or to 0
    for a query that may attend to nothing. None if they were not asked for."""
    request_id: str
    """The request's id."""
    execution: Execution
    """How the call was executed."""

    def __repr__(self) -> str:
        def brief(array: NDArray[Any] | None) -> str:
            return "None" if array is None else f"<{array.dtype} {array.shape}>"

        return (
            f"AttentionResult(output={brief(self.output)}, "
            f"attn_weights={brief(self.attn_weights)}, request_id={self.request_id!r}, "
            f"execution={self.execution!r})"
        )


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


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelInfo:
    """An attention block in a server's repository."""

    name: str
    """Its name."""
    version: int
    """Its version."""
    is_ready: bool
    """Whether it can be called."""
    state_reason: str
    """Why it cannot be called; empty if it can."""
    spec: AttentionSpec | None
    """Its mathematics; None if the server could not read the model."""
    provenance: Provenance | None
    """Where its weights came from; None if the server could not read the model."""
    providers: tuple[str, ...]
    """ONNX Runtime's names for what it runs on, the one preferred first."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ServerLimits:
    """What a server enforces, each limit named after the flag that sets it."""

    max_request_bytes: int
    """Largest request message."""
    max_response_bytes: int
    """Largest response message."""
    max_scores_bytes: int
    """Largest matrix of attention scores that one request may make the server hold:
    batch_size x num_heads x q_seq_len x kv_seq_len x 4. It bounds requests for weights, and
    requests with masks."""
    max_queue_size: int
    """Most requests that may wait for their run; more are refused."""
    max_queue_bytes: int
    """Most bytes of requests that the server holds at once, waiting or running."""
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
