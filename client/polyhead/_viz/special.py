"""Recognise special tokens, which a tokenizer adds to a text, such as [CLS]."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Special", "is_special"]

_SPELLING = re.compile(r"\[[A-Za-z]+\d*\]|<\|[^<>]+\|>|</?[a-z_]+\d*>|<(start|end)_of_\w+>")
_OF_TEXTS = {"[UNK]", "[MASK]", "<unk>", "<mask>"}
"""Stand for words of a text."""


class Special(NamedTuple):
    """Which tokens of a sequence are special."""

    queries: Sequence[bool]
    """For each query of the request, whichever were selected."""
    keys: Sequence[bool]
    """For each key."""


def is_special(token: str) -> bool:
    """Whether a token is spelled as special ones are: ``[CLS]``, ``</s>``, ``<|endoftext|>``."""
    return bool(_SPELLING.fullmatch(token)) and token not in _OF_TEXTS
