"""Copies of recorded checkpoints with other tensors, or other keys in config.json."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from golden import GOLDEN
from safetensors.numpy import load_file, save_file

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from typing import Any

    Arrays = dict[str, Any]

__all__ = ["changed"]


def changed(
    tmp_path: Path,
    family: str,
    change: Callable[[Arrays], Arrays] = lambda tensors: tensors,
    **settings: object,
) -> Path:
    """Write a recorded checkpoint with changed tensors, and changed keys in config.json."""
    folder = tmp_path / "changed"
    folder.mkdir()
    tensors = change(load_file(GOLDEN / family / "model.safetensors"))
    save_file(tensors, folder / "model.safetensors")
    config = json.loads((GOLDEN / family / "config.json").read_text()) | settings
    (folder / "config.json").write_text(json.dumps(config))
    return folder
