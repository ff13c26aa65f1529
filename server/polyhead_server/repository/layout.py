"""The folders of a repository, as Triton has them: <name>/<version>/model.onnx.

For a model of several files model.onnx is a folder. The graph is the file model.onnx in it, and the
data files lie beside that.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from polyhead_models.store import MAX_VERSION, MODEL_FILE
from polyhead_server.errors import ModelFileError
from polyhead_server.limits import LoadLimits
from polyhead_server.repository.files import check_file, exists, is_dangling
from polyhead_server.repository.triton_config import read_config

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["graph_file", "is_version", "versions_of"]

_MAX_SHOWN = 100
"""Most characters of a file's name in a message."""


def versions_of(folder: Path) -> list[int]:
    """Return the versions of the model in a folder, in ascending order.

    They include those that cannot be loaded, so that loading can say why. Raises OSError if the
    folder cannot be read.
    """
    if folder.name.startswith("."):
        return []
    if is_dangling(folder):
        raise FileNotFoundError(errno.ENOENT, "it is a link to a folder that does not exist")
    if not folder.is_dir():
        return []
    try:
        model_file = read_config(folder).model_file
    except ModelFileError:
        model_file = ""  # all versions, because the file's name is not known
    return sorted(
        int(child.name)
        for child in folder.iterdir()
        if is_version(child.name) and (exists(child / model_file) or is_dangling(child))
    )


def graph_file(
    folder: Path, version: int, model_file: str, max_bytes: int = LoadLimits.max_graph_bytes
) -> Path:
    """Return the path of a version's graph.

    ``model_file``: see TritonConfig. Raises ModelFileError if there is no such file, or a longer
    one than ``max_bytes``.
    """
    path, name, expected = folder / str(version) / model_file, model_file[:_MAX_SHOWN], "a file"
    if is_dangling(path.parent):
        raise ModelFileError("its folder is a link to a folder that does not exist")
    try:
        is_folder = path.is_dir()
    except OSError:
        is_folder = False  # check_file says what is wrong
    if is_folder:
        path, name = path / MODEL_FILE, f"{name}/{MODEL_FILE}"
        expected = "the graph's file there, and its data files beside it"
    check_file(path, name, expected, max_bytes)
    return path


def is_version(name: str) -> bool:
    """Whether a folder of this name is a version of a model."""
    is_canonical = name.isascii() and name.isdigit() and not name.startswith("0")
    return is_canonical and len(name) <= len(str(MAX_VERSION)) and int(name) <= MAX_VERSION
