"""Rules for the names of models and repositories, shared by the exporter and the server."""

from __future__ import annotations

import os
import re
from pathlib import Path

__all__ = ["ModelNameError", "check_model_name", "is_utf8", "name_of_folder"]

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


class ModelNameError(ValueError):
    """A name that is not allowed for a model."""


def check_model_name(name: str) -> None:
    """Raise ModelNameError unless ``name`` is a plain folder name.

    Valid names cannot point outside the repository, and need no quoting in a shell, a URL or a log.
    """
    if not _NAME.fullmatch(name):
        raise ModelNameError(
            f"{name[:200]!r} cannot be a model's name; use 1 to 128 letters, digits, dots, dashes "
            "and underscores, the first of them a letter or a digit (A-Z, a-z, 0-9)"
        )


def name_of_folder(folder: Path) -> str:
    """Return the name that a checkpoint's folder gives its model.

    It is the folder's, also for ``.`` and for a link. In the hub's cache, whose folders are called
    after commits, it is the repository's: ``models--org--NAME/snapshots/COMMIT``.
    """
    absolute = Path(os.path.abspath(folder))  # noqa: PTH100 - resolve() would follow a link
    if absolute.parent.name == "snapshots" and absolute.parents[1].name.startswith("models--"):
        return absolute.parents[1].name.rpartition("--")[2]
    return absolute.name


def is_utf8(path: Path) -> bool:
    """Whether the path's bytes are UTF-8, because ONNX Runtime opens no other path."""
    try:
        str(path).encode()
    except UnicodeEncodeError:  # Python has lone surrogates for other bytes
        return False
    return True
