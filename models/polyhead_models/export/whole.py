"""Exports a checkpoint's whole model into a repository: its graph, its weights, its tokenizer."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING

from polyhead_models.export.tokenizer import TOKENIZER_FILE, check_tokenizer
from polyhead_models.store import MODEL_FILE, write_version
from polyhead_models.whole.build import WEIGHTS_FILE, build_whole_model

if TYPE_CHECKING:
    from collections.abc import Callable
    from os import PathLike
    from pathlib import Path

    from polyhead_models.checkpoint.checkpoint import Checkpoint
    from polyhead_models.whole_config import WholeConfig

__all__ = ["ExportedWholeModel", "export_whole_model"]


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
    dtype: str = "float32",
    version: int | None = None,
    overwrite: bool = False,
    on_layer: Callable[[str], object] = lambda _: None,
) -> ExportedWholeModel:
    """Write a whole model into a repository, a folder that is created if missing.

    ``dtype`` is float32 or float16. Without ``version`` the model becomes the newest of its name.
    ``on_layer`` is called with each layer's name once it is written. The tokenizer's file is copied
    if the checkpoint has one and takes tokens.

    Raises CheckpointError, also if the tokenizer does not fit the model's vocabulary, and
    ModelNameError, StoreError and OSError as store.write_model does.
    """
    config: list[WholeConfig] = []
    tokenizer = checkpoint.folder / TOKENIZER_FILE

    def write(folder: Path) -> None:
        with (folder / WEIGHTS_FILE).open("wb") as weights:
            graph, whole = build_whole_model(checkpoint, weights, dtype=dtype, on_layer=on_layer)
        (folder / MODEL_FILE).write_bytes(graph)
        vocab_sizes = [stack.vocab_size for stack in whole.stacks if stack.vocab_size]
        if tokenizer.is_file() and vocab_sizes:
            check_tokenizer(tokenizer, vocab_sizes[0])
            shutil.copyfile(tokenizer, folder / TOKENIZER_FILE)
        config.append(whole)

    folder = write_version(repository, name, write, version, overwrite=overwrite)
    return ExportedWholeModel(config[0], folder, (folder / TOKENIZER_FILE).exists())
