"""Exports a checkpoint's whole model into a repository: its graph, its weights, its tokenizer."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from polyhead_models.config import ConfigError
from polyhead_models.export.whole_errors import check_runtime, measure_errors
from polyhead_models.store import MODEL_FILE, TOKENIZER_FILE, WEIGHTS_FILE, write_version
from polyhead_models.whole.build import build_whole_model, with_errors
from polyhead_models.whole_config import MATRIX_KINDS

if TYPE_CHECKING:
    from collections.abc import Callable
    from os import PathLike

    from polyhead_models.checkpoint.checkpoint import Checkpoint
    from polyhead_models.whole_config import WholeConfig

__all__ = ["MAX_WEIGHTS_ERROR", "ExportedWholeModel", "export_whole_model"]

MAX_WEIGHTS_ERROR = 0.1
"""Default bound of the change of an attention weight by int8."""
_CHOICES = (
    MATRIX_KINDS,
    ("projections", "up"),
    ("up", "down"),
    ("projections",),
    ("up",),
)
"""Sets of kinds of matrices that are tried in int8, in this order."""


@dataclass(frozen=True, slots=True)
class ExportedWholeModel:
    """An exported whole model, and its folder."""

    config: WholeConfig
    folder: Path
    has_tokenizer: bool


def export_whole_model(
    checkpoint: Checkpoint,
    name: str,
    repository: str | PathLike[str],
    *,
    precision: str = "float32",
    max_weights_error: float = MAX_WEIGHTS_ERROR,
    version: int | None = None,
    overwrite: bool = False,
    on_layer: Callable[[str], object] = lambda _: None,
) -> ExportedWholeModel:
    """Write a whole model into a repository, a folder that is created if missing.

    ``precision`` is float32, float16 or int8. int8 is for as many kinds of matrices as keep every
    attention weight within ``max_weights_error`` of float32's on random input. Without ``version``
    the model becomes the newest of its name. ``on_layer`` is called with each layer's name once it
    is written; for int8, once it is written in float32, in int8, and measured. The tokenizer's file
    is copied if the checkpoint has one and takes tokens.

    Raises CheckpointError, also if the tokenizer does not fit the model's vocabulary; ConfigError
    if no kind of matrix can be int8; and ModelNameError, StoreError and OSError as
    store.write_model does.
    """
    if precision == "int8":
        check_runtime()
    config: list[WholeConfig] = []
    tokenizer = checkpoint.folder / TOKENIZER_FILE

    def write(folder: Path) -> None:
        if precision == "int8":
            whole = _write_int8(checkpoint, folder, max_weights_error, on_layer)
        else:
            whole = _write(checkpoint, folder, on_layer, dtype=precision)
        if tokenizer.is_file() and any(stack.vocab_size for stack in whole.stacks):
            shutil.copyfile(tokenizer, folder / TOKENIZER_FILE)
        config.append(whole)

    folder = write_version(repository, name, write, version, overwrite=overwrite)
    return ExportedWholeModel(config[0], folder, (folder / TOKENIZER_FILE).exists())


def _write(
    checkpoint: Checkpoint,
    folder: Path,
    on_layer: Callable[[str], object],
    *,
    dtype: str = "float32",
    int8: tuple[str, ...] = (),
) -> WholeConfig:
    with (folder / WEIGHTS_FILE).open("wb") as weights:
        graph, config = build_whole_model(
            checkpoint, weights, dtype=dtype, int8=int8, on_layer=on_layer
        )
    (folder / MODEL_FILE).write_bytes(graph)
    return config


def _write_int8(
    checkpoint: Checkpoint,
    folder: Path,
    max_weights_error: float,
    on_layer: Callable[[str], object],
) -> WholeConfig:
    """Write the model with ever fewer kinds of matrices in int8, until the bound holds."""
    measured = []
    with TemporaryDirectory(dir=folder.parent, prefix="float32-") as exact:
        _write(checkpoint, Path(exact), on_layer)
        for kinds in _CHOICES:
            config = _write(checkpoint, folder, on_layer, int8=kinds)
            errors = measure_errors(config, Path(exact), folder, on_layer)
            if errors.weights <= max_weights_error:
                file = folder / MODEL_FILE
                graph, config = with_errors(
                    file.read_bytes(), config, weights=errors.weights, output=errors.output
                )
                file.write_bytes(graph)
                return config
            measured.append(f"{errors.weights:.2g} with {' and '.join(kinds)}")
            on_layer = _ignore  # the progress is complete
    raise ConfigError(
        f"int8 moves attention weights by more than {max_weights_error:g}: by "
        f"{', '.join(measured)}; allow more by --max-weights-error, or export float32"
    )


def _ignore(_: str) -> None:
    pass
