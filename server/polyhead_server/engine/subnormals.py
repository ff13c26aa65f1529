"""Makes threads compute with zeros in place of subnormal numbers, those below 1.2e-38.

A CPU takes a hundred times as long for an operation on a subnormal number. Attention has many of
them if the scores of a row differ by 87 to 104, and callers choose the scores: then the fused
operator took 55 ns in place of 3 for each score (two heads of width 64, one thread).
"""

from __future__ import annotations

import ctypes
import platform
import sys
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["FLUSH_OPTION", "flush_subnormals", "keeping_subnormals"]

FLUSH_OPTION = "session.set_denormal_as_zero"
"""The option of a session, for the threads of its own pool. The thread that makes the session is
changed as well."""
_CONTROLS = {"x86_64": (28, 0x8040), "aarch64": (0, 1 << 24)}
"""By machine: the offset of the control word in the C library's fenv_t, and its bits (MXCSR: inputs
and results; FPCR: both)."""
_ENVIRONMENT_BYTES = 64
"""More than an fenv_t has."""


def flush_subnormals() -> None:
    """Compute with zeros in place of subnormal numbers, in this thread and those that it starts.

    Does nothing except on Linux, with x86-64 or aarch64.
    """
    environment = _read_environment()
    control = _CONTROLS.get(platform.machine())
    if environment is None or control is None:
        return
    offset, bits = control
    word = ctypes.c_uint32.from_buffer(environment, offset)
    word.value |= bits
    _library().fesetenv(environment)


@contextmanager
def keeping_subnormals() -> Iterator[None]:
    """Let this thread compute afterwards as it did before."""
    environment = _read_environment()
    try:
        yield
    finally:
        if environment is not None:
            _library().fesetenv(environment)


def _read_environment() -> ctypes.Array[ctypes.c_char] | None:
    """Return how this thread computes, an fenv_t; None where this is not known."""
    if sys.platform != "linux" or not hasattr(_library(), "fesetenv"):
        return None
    environment = ctypes.create_string_buffer(_ENVIRONMENT_BYTES)
    return None if _library().fegetenv(environment) else environment


@cache
def _library() -> ctypes.CDLL:
    return ctypes.CDLL(None)
