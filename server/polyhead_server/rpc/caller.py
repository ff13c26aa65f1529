"""Who calls: the name of a token, or else that of a client certificate, or else a connection.

A context variable holds the name, because gRPC runs a call in a task of its own, and tasks that
this one makes inherit it. So logs and metrics have the name in streams too, and no function passes
it on.
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import grpc

__all__ = ["current_caller", "identify_caller", "set_caller"]

_CALLER: ContextVar[str] = ContextVar("caller", default="")


def current_caller() -> str:
    """Return the caller's name, from its token or certificate; empty if it has neither."""
    return _CALLER.get()


def set_caller(name: str) -> None:
    """Name the caller for the rest of the current task."""
    _CALLER.set(name)


def identify_caller(context: grpc.aio.ServicerContext[Any, Any]) -> str:
    """Return the caller's name; empty if neither a token nor a certificate names the caller.

    A caller without a token is named by its certificate, which gRPC has verified.
    """
    if not current_caller() and (names := context.peer_identities()):
        set_caller(next(iter(names)).decode(errors="replace"))
    return current_caller()
