"""Multi-head attention as a service: the client.

::

    import polyhead

    with polyhead.Client("localhost:50051") as client:
        result = client.attend(query, model="river-bank", need_weights=True)
        result.output  # (batch_size, q_seq_len, embed_dim)
        result.attn_weights  # (batch_size, num_heads, q_seq_len, kv_seq_len)
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
    AttentionSpec,
    AttnWeights,
    Execution,
    ModelInfo,
    Provenance,
    ServerInfo,
    ServerLimits,
    TLSConfig,
)

if TYPE_CHECKING:
    from polyhead._client_async import AsyncClient
    from polyhead._client_sync import Client

__all__ = [
    "AsyncClient",
    "AttentionResult",
    "AttentionSpec",
    "AttnWeights",
    "AuthenticationError",
    "Client",
    "ClientClosedError",
    "DeadlineExceededError",
    "Execution",
    "InvalidArgumentError",
    "MissingExtraError",
    "ModelInfo",
    "ModelNotFoundError",
    "ModelUnavailableError",
    "PolyheadError",
    "Provenance",
    "RequestCancelledError",
    "ResourceExhaustedError",
    "ServerError",
    "ServerInfo",
    "ServerLimits",
    "ServerUnavailableError",
    "TLSConfig",
    "UnsupportedOperationError",
    "__version__",
]

# Imported when first used: they bring grpc and NumPy, half a second that `polyhead --help`, whose
# modules live in this package, would otherwise wait for.
_CLIENTS = {"AsyncClient": "polyhead._client_async", "Client": "polyhead._client_sync"}


def __getattr__(name: str) -> object:
    if name in _CLIENTS:
        return getattr(import_module(_CLIENTS[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(globals().keys() | _CLIENTS.keys())
