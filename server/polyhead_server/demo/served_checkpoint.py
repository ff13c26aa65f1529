"""Exports the whole model of a checkpoint, and serves it."""

from __future__ import annotations

from contextlib import contextmanager
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import polyhead
from polyhead.cli.command import UsageError
from polyhead.cli.output_paths import writing
from polyhead.cli.signals import exit_on_signals
from polyhead_models.checkpoint.checkpoint import Checkpoint, CheckpointError
from polyhead_models.checkpoint.designs.design import TokenEmbeddings
from polyhead_models.commands.progress import progress
from polyhead_models.config import ConfigError
from polyhead_models.export.whole import export_whole_model
from polyhead_models.rotary import RotaryError
from polyhead_server.engine.tokenizer import Tokenizer
from polyhead_server.errors import ModelFileError
from polyhead_server.running import running_server

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["MODEL_NAME", "open_checkpoint", "serving"]

MODEL_NAME = "checkpoint"


def open_checkpoint(folder: Path) -> Checkpoint:
    """Open a checkpoint whose whole model takes text. Raises UsageError for any other."""
    try:
        checkpoint = Checkpoint.open(folder)
        if problem := _problem(checkpoint):
            raise UsageError(f"--checkpoint: {problem}")
    except CheckpointError as error:
        raise UsageError(f"--checkpoint: {error}") from error
    return checkpoint


@contextmanager
def serving(checkpoint: Checkpoint) -> Iterator[polyhead.Client]:
    """Export the whole model into a temporary folder, and serve it on a free port.

    Raises UsageError for a checkpoint that cannot be exported, and for a full disk.
    """
    with exit_on_signals(1), TemporaryDirectory(prefix="polyhead-demo-") as repository:
        try:
            with writing(repository), progress(checkpoint.count_layers()) as done:
                export_whole_model(checkpoint, MODEL_NAME, repository, on_layer=done)
        except (CheckpointError, ConfigError, RotaryError) as error:
            raise UsageError(f"--checkpoint: {error}") from error
        with running_server(repository) as server, polyhead.Client(server.target) as client:
            yield client


def _problem(checkpoint: Checkpoint) -> str:
    """Return why a checkpoint's whole model takes no text, or an empty string if it does."""
    first, *others = checkpoint.designs()
    takers = [first, *(design for design in others if design.stack != "decoder")]
    if not any(isinstance(design.embeddings, TokenEmbeddings) for design in takers):
        return f"{checkpoint.model_type} takes no text, and the demo sends sentences"
    try:
        tokenizer = Tokenizer.of_folder(checkpoint.folder)
    except ModelFileError as error:
        return f"{checkpoint.folder} cannot be sent sentences: {error}"
    if tokenizer is None:
        return (
            f"{checkpoint.folder} has no tokenizer.json, and the demo sends sentences; download "
            "it with the weights, or make it of an older tokenizer's files with transformers' "
            "AutoTokenizer.from_pretrained(DIR).save_pretrained(DIR)"
        )
    return ""
