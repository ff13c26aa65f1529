"""A call's context as Serve's proxy gets it: values, and nothing of gRPC.

Serve uses the context after a call has ended, for its access log. gRPC has then freed the call, and
its context of a stream that the caller had cancelled ended the process with SIGSEGV (grpcio 1.85,
Ray 2.60).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from polyhead_server.ray.answer import TIME_REMAINING

if TYPE_CHECKING:
    from collections.abc import Iterable

    import grpc

    Metadata = tuple[tuple[str, str | bytes], ...]

__all__ = ["ServeContext"]


class ServeContext:
    """The part of grpc.aio.ServicerContext that Serve uses."""

    def __init__(self, context: grpc.aio.ServicerContext[bytes, bytes]) -> None:
        self._peer = context.peer()
        self._sent = _sent_to_replica(context)
        self._code: grpc.StatusCode | None = None
        self._details = ""
        self._trailing_metadata: Metadata = ()

    def peer(self) -> str:
        """Return gRPC's name of the caller's connection."""
        return self._peer

    def auth_context(self) -> dict[str, Any]:
        """Return nothing, because the proxy speaks no TLS."""
        return {}

    def peer_identities(self) -> None:
        """Return None, as gRPC does for callers without certificates."""

    def peer_identity_key(self) -> None:
        """Return None, as gRPC does for callers without certificates."""

    def invocation_metadata(self) -> Metadata:
        """Return the metadata for the replica."""
        return self._sent

    def code(self) -> grpc.StatusCode | None:
        """Return the code that Serve has set; None if it has set none."""
        return self._code

    def set_code(self, code: grpc.StatusCode) -> None:
        """Set the code of the status."""
        self._code = code

    def details(self) -> str:
        """Return the message that Serve has set."""
        return self._details

    def set_details(self, details: str) -> None:
        """Set the message of the status."""
        self._details = details

    def trailing_metadata(self) -> Metadata:
        """Return the metadata that Serve has set."""
        return self._trailing_metadata

    def set_trailing_metadata(self, metadata: Iterable[tuple[str, str | bytes]]) -> None:
        """Set the metadata that follow the last message."""
        self._trailing_metadata = tuple(metadata)


def _sent_to_replica(context: grpc.aio.ServicerContext[bytes, bytes]) -> Metadata:
    """Return the caller's metadata, with its deadline, and its request id under Serve's name."""
    metadata: list[tuple[str, str | bytes]] = [
        (key, value) for key, value in context.invocation_metadata() or () if key != TIME_REMAINING
    ]
    ids = {key: value for key, value in metadata if key in {"request_id", "x-request-id"}}
    if "request_id" not in ids and "x-request-id" in ids:
        metadata.append(("request_id", ids["x-request-id"]))
    # gRPC's type says float; it is None for a call without a deadline
    remaining_s: float | None = context.time_remaining()
    if remaining_s is not None:
        metadata.append((TIME_REMAINING, repr(remaining_s)))
    return tuple(metadata)
