"""Rules for model names, shared by the exporter and the server."""

from __future__ import annotations

import re

__all__ = ["ModelNameError", "check_model_name"]

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
