"""The server that the explorer starts if the user names none."""

from __future__ import annotations

import re
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from polyhead.cli.command import UsageError
from polyhead.cli.output_paths import writing
from polyhead.errors import MissingExtraError

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["own_server"]


@contextmanager
def own_server(models: Path | None, checkpoint: Path | None) -> Iterator[str]:
    """Serve a repository, a checkpoint, or the built-in models. Yields the server's target.

    Raises UsageError if they cannot be served, and MissingExtraError if a package is missing.
    """
    with ExitStack() as stack:
        if checkpoint is not None:
            models = stack.enter_context(_exported_checkpoint(checkpoint))
        try:
            from polyhead_server.errors import StartupError
            from polyhead_server.running import running_server
        except ModuleNotFoundError as error:
            raise _missing(error, "explore,server") from error
        try:
            server = stack.enter_context(running_server(models))
        except StartupError as error:
            raise UsageError(f"the explorer's own server cannot start: {error}") from error
        yield server.target


@contextmanager
def _exported_checkpoint(checkpoint: Path) -> Iterator[Path]:
    """Export a checkpoint's whole model. Yields the temporary repository."""
    try:
        from polyhead_models.checkpoint.checkpoint import Checkpoint, CheckpointError
        from polyhead_models.commands.progress import progress
        from polyhead_models.config import ConfigError
        from polyhead_models.export.whole import export_whole_model
        from polyhead_models.rotary import RotaryError
    except ModuleNotFoundError as error:
        raise _missing(error, "explore,server,export") from error
    with TemporaryDirectory(prefix="polyhead-explore-") as folder:
        try:
            opened = Checkpoint.open(checkpoint)
            with writing(folder), progress(opened.count_layers()) as done:
                export_whole_model(opened, _model_name(opened.name), folder, on_layer=done)
        except (CheckpointError, ConfigError, RotaryError) as error:
            raise UsageError(f"--checkpoint: {error}") from error
        yield Path(folder)


def _model_name(folder: str) -> str:
    """Make the name of a model from the name of a folder."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", folder).lstrip("._-")[:64] or "checkpoint"


def _missing(error: ModuleNotFoundError, extras: str) -> MissingExtraError:
    return MissingExtraError(
        f"the explorer's own server needs {error.name}, which is not installed: "
        f"pip install 'polyhead[{extras}]'; or name a server: polyhead explore --server HOST:PORT"
    )
