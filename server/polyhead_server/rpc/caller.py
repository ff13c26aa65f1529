"""The caller's name: the name of its token, or else of its client certificate.

The name is in a context variable. gRPC runs each call in its own task, and the tasks which that
task starts inherit the variable. So log and metrics have the name in streams too, and no function
has to pass it on.
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
