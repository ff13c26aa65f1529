"""Finds the tokens of a text's words, for the client and for the server."""

from __future__ import annotations

import re
from bisect import bisect_left
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["last_tokens"]


def last_tokens(word: str, text: str, spans: Sequence[tuple[int, int]]) -> list[int]:
    """Return the index of a word's last token, for each time that the word stands in a text.

    ``word``: spelled as in the text; it may be punctuation, or several words. Where it begins or
    ends with a letter or a digit, no other one may adjoin.
    ``spans``: where each token begins and ends in the text, in characters. They are in order, but
    for those of special tokens, which are empty.
    """
    places = [place for place, (start, end) in enumerate(spans) if start < end]
    starts = [spans[place][0] for place in places]
    before = r"(?<!\w)" if word[:1].isalnum() else ""
    after = r"(?!\w)" if word[-1:].isalnum() else ""
    found = []
    for match in re.finditer(before + re.escape(word) + after, text):
        # the last token that begins before the word's end, if it does not end before the word
        index = bisect_left(starts, match.end()) - 1
        if index >= 0 and spans[places[index]][1] > match.start():
            found.append(places[index])
    return found
