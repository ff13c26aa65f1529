"""What a model may be called, for those who write repositories and those who serve them."""

from __future__ import annotations

import re

__all__ = ["ModelNameError", "check_model_name"]

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


class ModelNameError(ValueError):
    """A name that no model can have."""


def check_model_name(name: str) -> None:
    """Refuse a name that is no plain folder name.

    Raises ModelNameError. What passes cannot leave the repository, and needs no quoting in a
    shell, a URL or a log.
    """
    if not _NAME.fullmatch(name):
        raise ModelNameError(
            f"{name[:200]!r} cannot be a model's name; use 1 to 128 letters, digits, dots, dashes "
            "and underscores, the first of them a letter or a digit (A-Z, a-z, 0-9)"
        )
