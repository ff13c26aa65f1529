"""Replaces standard streams that were closed when the process started."""

from __future__ import annotations

import os
import sys

__all__ = ["open_closed_streams"]

_MODES = {"stdin": "r", "stdout": "w", "stderr": "w"}
"""The standard streams in the order of their descriptors: 0, 1 and 2."""


def open_closed_streams() -> None:
    """Open the null device in place of each standard stream that is closed.

    Call it before the process opens anything, because the next file or socket would otherwise get
    the number of a closed stream, and what libraries and child processes print would go into it.
    """
    for descriptor in range(len(_MODES)):
        if _is_closed(descriptor):
            os.open(os.devnull, os.O_RDWR)  # gets the lowest free number, which is this one
            os.set_inheritable(descriptor, True)  # noqa: FBT003 - it takes no keyword
    for name, mode in _MODES.items():
        if getattr(sys, name) is None:  # as Python sets it if the descriptor is closed
            null = os.open(os.devnull, os.O_RDWR)
            setattr(sys, name, open(null, mode, encoding="utf-8", closefd=False))  # noqa: SIM115 - it stays open


def _is_closed(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return True
    return False
