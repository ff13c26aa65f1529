"""The name of the caller whose call the current task serves.

A context variable holds it, because gRPC runs a call in a task of its own, and tasks that this one
makes inherit it. So logs and metrics have the name in streams too, and no function passes it on.
"""

from __future__ import annotations

from contextvars import ContextVar

__all__ = ["current_caller", "set_caller"]

_CALLER: ContextVar[str] = ContextVar("caller", default="")


def current_caller() -> str:
    """Return the name from the caller's token; empty if the server or the method needs none."""
    return _CALLER.get()


def set_caller(name: str) -> None:
    """Name the caller for the rest of the current task."""
    _CALLER.set(name)
