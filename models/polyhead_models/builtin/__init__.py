"""The repository that a server serves when it is given no other: the model ``river-bank``.

``python -m polyhead_models.river_bank`` writes it.
"""

from __future__ import annotations

from pathlib import Path

__all__ = ["repository"]


def repository() -> Path:
    """Give the repository's folder, which holds ``<name>/<version>/model.onnx``."""
    return Path(__file__).parent
