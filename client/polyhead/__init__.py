"""Multi-head attention as a service: the client.

::

    import polyhead

    with polyhead.Client("localhost:50051") as client:
        result = client.attend(query, model="river-bank", need_weights=True)
        result.output  # (batch_size, q_seq_len, embed_dim)
        result.attn_weights  # (batch_size, num_heads, q_seq_len, kv_seq_len)

        result = client.forward("Tom fishes at the river bank.", model="minilm", need_weights=True)
        result.attn_weights[5]  # (batch_size, num_heads, seq_len, seq_len)
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from polyhead._version import __version__
from polyhead.errors import (
    AuthenticationError,
    ClientClosedError,
    DeadlineExceededError,
    InvalidArgumentError,
    MissingExtraError,
    ModelNotFoundError,
    ModelUnavailableError,
    PolyheadError,
    RequestCancelledError,
    ResourceExhaustedError,
    ServerError,
    ServerUnavailableError,
    UnsupportedOperationError,
)
from polyhead.types import (
    AttentionResult,
    AttentionRows,
    AttentionSpec,
    Execution,
    ExplorerPage,
    ForwardResult,
    HeadVectors,
    LayerSpec,
    ModelChange,
    ModelInfo,
    Provenance,
    RotarySpec,
    ServerInfo,
    ServerLimits,
    StackSpec,
    TLSConfig,
    Vectors,
    Weights,
    WholeModelSpec,
)

if TYPE_CHECKING:
    from polyhead._client.async_client import AsyncClient
    from polyhead._client.sync_client import Client
    from polyhead._stream.row_streams import AsyncRowStream, RowStream

__all__ = [
    "AsyncClient",
    "AsyncRowStream",
    "AttentionResult",
    "AttentionRows",
    "AttentionSpec",
    "AuthenticationError",
    "Client",
    "ClientClosedError",
    "DeadlineExceededError",
    "Execution",
    "ExplorerPage",
    "ForwardResult",
    "HeadVectors",
    "InvalidArgumentError",
    "LayerSpec",
    "MissingExtraError",
    "ModelChange",
    "ModelInfo",
    "ModelNotFoundError",
    "ModelUnavailableError",
    "PolyheadError",
    "Provenance",
    "RequestCancelledError",
    "ResourceExhaustedError",
    "RotarySpec",
    "RowStream",
    "ServerError",
    "ServerInfo",
    "ServerLimits",
    "ServerUnavailableError",
    "StackSpec",
    "TLSConfig",
    "UnsupportedOperationError",
    "Vectors",
    "Weights",
    "WholeModelSpec",
    "__version__",
]

# Imported when first used: they bring grpc and NumPy, half a second that `polyhead --help`, whose
# modules live in this package, would otherwise wait for.
_NEED_GRPC = {
    "AsyncClient": "polyhead._client.async_client",
    "AsyncRowStream": "polyhead._stream.row_streams",
    "Client": "polyhead._client.sync_client",
    "RowStream": "polyhead._stream.row_streams",
}


def __getattr__(name: str) -> object:
    if name in _NEED_GRPC:
        return getattr(import_module(_NEED_GRPC[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(globals().keys() | _NEED_GRPC.keys())
