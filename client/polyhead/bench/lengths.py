"""Reads `--tokens`: one sequence length, a range, or several in equal shares."""

from __future__ import annotations

import re

__all__ = ["MAX_TOKENS", "parse_lengths"]

MAX_TOKENS = 1_000_000
"""Longer sequences are refused as typing errors."""
_RANGE = re.compile(r"(\d+)\.\.(\d+)")
_LIST = re.compile(r"\d+(,\d+)*")


def parse_lengths(text: str) -> tuple[int, ...]:
    """Read ``16``, ``16,32,128``, or ``4..256``, which is every length from 4 to 256.

    Raises ValueError with a message that says what was expected.
    """
    if match := _RANGE.fullmatch(text):
        first, last = map(int, match.groups())
        lengths = tuple(range(first, last + 1)) if last <= MAX_TOKENS else ()
    elif _LIST.fullmatch(text):
        lengths = tuple(map(int, text.split(",")))
    else:
        lengths = ()
    if not lengths or min(lengths) < 1 or max(lengths) > MAX_TOKENS:
        raise ValueError(
            f"expected lengths from 1 to {MAX_TOKENS:,}, such as 16, 4..256 or 16,32,128; "
            f"got {text!r}"
        )
    return lengths
