"""Exports a block as a model: in its precision, as ONNX, into a repository.

block = load_checkpoint("all-MiniLM-L6-v2", layer=0)
export_block(block, "minilm", "models", precision="int8")
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from polyhead_models.export.precision import with_precision
from polyhead_models.graph import build_model
from polyhead_models.graph.weights_file import WeightsFile
from polyhead_models.names import check_model_name
from polyhead_models.store import MODEL_FILE, WEIGHTS_FILE, write_version

if TYPE_CHECKING:
    from os import PathLike
    from pathlib import Path

    from polyhead_models.blocks import AttentionBlock

__all__ = ["ExportedModel", "export_block"]

MAX_INLINE_BYTES = 2**31 - 2**24
"""An ONNX file is one protobuf message, below 2 GiB, including the graph's nodes."""


@dataclass(frozen=True, slots=True)
class ExportedModel:
    """An exported block, and its graph's file."""

    block: AttentionBlock
    """The block in the requested precision, with the precision's error in its provenance."""
    file: Path

    @property
    def num_bytes(self) -> int:
        """Size of the graph and of its weights."""
        files = (self.file, self.file.with_name(WEIGHTS_FILE))
        return sum(file.stat().st_size for file in files if file.exists())


def export_block(
    block: AttentionBlock,
    name: str,
    repository: str | PathLike[str],
    *,
    precision: str = "",
    version: int | None = None,
    overwrite: bool = False,
    max_inline_bytes: int = MAX_INLINE_BYTES,
) -> ExportedModel:
    """Write a block's ONNX file into a repository, a folder that is created if missing.

    ``precision`` is one of config.PRECISIONS; empty: the block's own. Without ``version`` the model
    becomes the newest of its name: one above the highest version, or 1. Weights of more than
    ``max_inline_bytes`` are written beside the graph, in parts.

    Raises ConfigError if the weights do not fit the precision, and ModelNameError, StoreError and
    OSError as store.write_model does.
    """
    check_model_name(name)  # before the expensive steps
    config = replace(block.config, precision=precision or block.config.precision)
    if config != block.config:
        block = with_precision(block, precision)
    exported = block

    def write(folder: Path) -> None:
        if config.weights_bytes > max_inline_bytes:
            with (folder / WEIGHTS_FILE).open("wb") as weights:
                graph = build_model(exported, WeightsFile(weights).store)
        else:
            graph = build_model(exported)
        (folder / MODEL_FILE).write_bytes(graph)

    folder = write_version(repository, name, write, version, overwrite=overwrite)
    return ExportedModel(block, folder / MODEL_FILE)
