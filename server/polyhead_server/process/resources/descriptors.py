"""Limits the connections by the process's file descriptors."""

from __future__ import annotations

import sys

__all__ = ["connections_that_fit"]

_OTHERS = 64
"""Descriptors for all else: a server has some 25, and loads models beside."""


def connections_that_fit(wanted: int, *, may_raise: bool) -> int:
    """Return the number of connections that the process has descriptors for.

    Without a descriptor a connection is not accepted, and its client waits for nothing.
    ``may_raise``: whether to raise the soft limit of this process if it is too low.
    """
    if sys.platform == "win32":  # it has no such limit
        return wanted
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = wanted + _OTHERS
    if may_raise and _is_below(soft, needed):
        soft = min(needed, hard) if _is_below(hard, needed) else needed
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return max(1, soft - _OTHERS) if _is_below(soft, needed) else wanted


def _is_below(limit: int, needed: int) -> bool:
    import resource

    return limit != resource.RLIM_INFINITY and limit < needed
