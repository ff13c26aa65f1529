"""Exports a block as a model: in its precision, as ONNX, into a repository.

block = load_checkpoint("all-MiniLM-L6-v2", layer=0)
export_block(block, "minilm", "models", precision="int8")
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from polyhead_models.config import ConfigError
from polyhead_models.export.precision import with_precision
from polyhead_models.graph import build_model
from polyhead_models.names import check_model_name
from polyhead_models.store import write_model

if TYPE_CHECKING:
    from os import PathLike
    from pathlib import Path

    from polyhead_models.blocks import AttentionBlock
    from polyhead_models.config import AttentionConfig

__all__ = ["ExportedModel", "check_size", "export_block"]

MAX_WEIGHTS_BYTES = 2**31 - 2**20
"""An ONNX file is one protobuf message, below 2 GiB, including the graph's nodes."""
BYTES_PER_WEIGHT = {"float32": 4, "float16": 2, "int8": 1}


@dataclass(frozen=True, slots=True)
class ExportedModel:
    """An exported block, and its file."""

    block: AttentionBlock
    """The block in the requested precision, with the precision's error in its provenance."""
    file: Path


def export_block(
    block: AttentionBlock,
    name: str,
    repository: str | PathLike[str],
    *,
    precision: str = "",
    version: int | None = None,
    overwrite: bool = False,
) -> ExportedModel:
    """Write a block's ONNX file into a repository, a folder that is created if missing.

    ``precision`` is one of config.PRECISIONS; empty: the block's own. Without ``version`` the model
    becomes the newest of its name: one above the highest version, or 1.

    Raises ConfigError if the weights are too large for a file or do not fit the precision, and
    ModelNameError, StoreError and OSError as store.write_model does.
    """
    check_model_name(name)  # before the expensive steps
    config = replace(block.config, precision=precision or block.config.precision)
    check_size(config)
    if config != block.config:
        block = with_precision(block, precision)
    file = write_model(repository, name, build_model(block), version, overwrite=overwrite)
    return ExportedModel(block, file)


def check_size(config: AttentionConfig) -> None:
    """Raise ConfigError if the block's weights are too large for an ONNX file."""
    count = sum(math.prod(shape) for shape in config.weight_shapes().values())
    size = BYTES_PER_WEIGHT[config.precision] * count
    if size > MAX_WEIGHTS_BYTES:
        raise ConfigError(
            f"the weights take {size / 2**30:.1f} GiB, and one ONNX file holds less than 2 GiB; "
            "choose a narrower block"
        )
