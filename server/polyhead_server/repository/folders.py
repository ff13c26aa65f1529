"""The current contents of a repository's folder: models, versions, and the state of files."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

from polyhead_models.names import ModelNameError, check_model_name, is_utf8
from polyhead_server.errors import StartupError
from polyhead_server.repository.layout import versions_of
from polyhead_server.repository.triton_config import CONFIG_FILE

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["FileStates", "ModelFolder", "read_model_folder", "read_repository"]

_LOG = logging.getLogger("polyhead.repository")
_MAX_FILES = 10_000
"""Most files of a version whose state is looked at."""

FileStates = tuple[tuple[object, ...], ...]
"""Path, size, time of change and number of each file; they differ once a file was changed."""


@dataclass(frozen=True, slots=True)
class ModelFolder:
    """The folder of one model."""

    versions: dict[int, FileStates]
    """The files of each version, in ascending order; none if the folder cannot be read."""


def read_repository(root: Path) -> dict[str, ModelFolder]:
    """Read the folder of each model, by the model's name. Raises StartupError."""
    try:
        _check_root(root)
        folders = sorted(root.iterdir())
    except OSError as error:
        raise StartupError(f"--models {root}: cannot be read: {error.strerror}") from error
    folders_by_name = {}
    for folder in folders:
        try:
            model = read_model_folder(folder)
            if model.versions:
                check_model_name(folder.name)
                folders_by_name[folder.name] = model
        except OSError as error:  # such as a volume's lost+found
            _LOG.warning("folder skipped: %r: %s", folder.name, error.strerror)
            folders_by_name[folder.name] = ModelFolder({})
        except ModelNameError as error:
            _LOG.warning("folder skipped: %s", error)
        except Exception:  # noqa: BLE001 - others serve on, whatever is wrong with it
            _LOG.exception("folder skipped: %r", folder.name)
            folders_by_name[folder.name] = ModelFolder({})
    return folders_by_name


def read_model_folder(folder: Path) -> ModelFolder:
    """Read which versions a folder has, and the state of their files. Raises OSError."""
    return ModelFolder({number: _states(folder, number) for number in versions_of(folder)})


def _states(folder: Path, version: int) -> FileStates:
    files = islice(_files(folder / str(version)), _MAX_FILES)
    return tuple(sorted(_state(path) for path in (folder / CONFIG_FILE, *files)))


def _files(folder: Path) -> Iterator[Path]:
    try:
        yield from folder.rglob("*")
    except OSError:  # loading reports the problem
        return


def _state(path: Path) -> tuple[object, ...]:
    try:
        stat = path.stat()
    except OSError:
        return (str(path),)
    return str(path), stat.st_size, stat.st_mtime_ns, stat.st_ino


def _check_root(root: Path) -> None:
    if not is_utf8(root):
        raise StartupError(
            f"--models {root}: the path is not UTF-8, and ONNX Runtime opens no such path; rename "
            "the folder, or name it by a link or a relative path that is UTF-8"
        )
    if root.is_file():
        raise StartupError(
            f"--models {root}: is a file; expected a folder of <name>/<version>/model.onnx, "
            "such as 'polyhead export' writes with --out"
        )
    if not root.is_dir():
        raise StartupError(f"--models {root}: there is no such folder")
