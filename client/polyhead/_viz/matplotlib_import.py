"""Imports matplotlib in processes whose MPLBACKEND names a backend that is not installed."""

from __future__ import annotations

import os
import sys
from contextlib import suppress

__all__ = ["import_matplotlib"]

_VARIABLE = "MPLBACKEND"


def import_matplotlib() -> None:
    """Import matplotlib as ``import matplotlib`` does, but ignore a backend that it refuses.

    Call it before any other import of matplotlib. Notebooks set MPLBACKEND for every process that
    they start, and ``import matplotlib`` raises ValueError where that backend is not installed,
    although a picture file needs none. A backend that is installed stays chosen.
    """
    if "matplotlib" in sys.modules:  # it accepted MPLBACKEND, or the program has chosen a backend
        return
    for name in [name for name in sys.modules if name.startswith("matplotlib.")]:
        del sys.modules[name]  # left over from an import that raised, and useless without the rest
    backend = os.environ.pop(_VARIABLE, "")
    try:
        import matplotlib as mpl
    finally:
        if backend:
            os.environ[_VARIABLE] = backend
    if backend:
        with suppress(ValueError):  # what matplotlib raises for a backend that is not installed
            mpl.rcParams["backend"] = backend
