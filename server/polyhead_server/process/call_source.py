"""The source of a server's calls: a port of its own, or a framework that embeds the server."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Collection, Sequence

    import grpc

__all__ = ["CallSource"]


class CallSource(Protocol):
    """Passes calls to handlers."""

    max_connections: int
    """Most connections at once; counts for a source with a port only."""
    max_waiting_calls: int
    """Calls that may wait until a handler is asked for; others are dropped. For a port only."""

    def check(self) -> None:
        """Raise StartupError if calls cannot arrive. This is checked before models are loaded."""

    async def start(self, handlers: Sequence[grpc.GenericRpcHandler]) -> int:
        """Serve calls by the first of these handlers that has their method.

        Returns the port that is listened on; 0: there is none. Raises StartupError.
        """

    def num_received(self) -> int:
        """Return how many calls have arrived so far, dropped ones included. For a port only."""

    def num_unanswered(self, addresses: Collection[str]) -> Counter[str]:
        """Return by address how many of its calls were dropped or not answered. For a port only."""

    async def stop(self, grace_s: float) -> None:
        """Let calls finish for ``grace_s`` seconds, and end the remaining ones."""
