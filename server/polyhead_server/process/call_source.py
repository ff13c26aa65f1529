"""Where a server's calls come from: a port of its own, or what runs it as a part of itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    import grpc

__all__ = ["CallSource"]


class CallSource(Protocol):
    """Passes calls to handlers."""

    max_connections: int
    """Most connections at once; counts for a source with a port only."""

    def check(self) -> None:
        """Raise StartupError if no call can come, before models are loaded."""

    async def start(self, handlers: Sequence[grpc.GenericRpcHandler]) -> int:
        """Serve calls by the first of these handlers that has their method.

        Returns the port that is listened on; 0: there is none. Raises StartupError.
        """

    async def stop(self, grace_s: float) -> None:
        """Let calls finish for so many seconds, and end those that are left."""
