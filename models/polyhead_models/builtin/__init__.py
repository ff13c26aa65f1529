"""The default repository of a server, which holds the model ``river-bank``.

``python -m polyhead_models.river_bank`` writes it.
"""

from __future__ import annotations

from pathlib import Path

__all__ = ["repository"]


def repository() -> Path:
    """Return the repository's folder, which holds ``<name>/<version>/model.onnx``."""
    return Path(__file__).parent
