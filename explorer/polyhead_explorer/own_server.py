"""The server that the explorer starts where none is named."""

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
    """Serve a repository, a checkpoint, or the built-in models; yield the address.

    Raises UsageError where they cannot be served; MissingExtraError without what that needs.
    """
    with ExitStack() as stack:
        if checkpoint is not None:
            models = stack.enter_context(_exported(checkpoint))
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
def _exported(checkpoint: Path) -> Iterator[Path]:
    """Export a checkpoint's whole model into a temporary repository."""
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
                export_whole_model(opened, _name(opened.name), folder, on_layer=done)
        except (CheckpointError, ConfigError, RotaryError) as error:
            raise UsageError(f"--checkpoint: {error}") from error
        yield Path(folder)


def _name(folder: str) -> str:
    """Make a model's name of a folder's."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", folder).lstrip("._-")[:64] or "checkpoint"


def _missing(error: ModuleNotFoundError, extras: str) -> MissingExtraError:
    return MissingExtraError(
        f"a server of the explorer's own needs {error.name}, which is not installed: "
        f"pip install 'polyhead[{extras}]'; or name a server: polyhead explore --server HOST:PORT"
    )
