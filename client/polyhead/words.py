"""Find the tokens of a text's words. Client and server share this module."""

from __future__ import annotations

import re
from bisect import bisect_left
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["last_tokens"]


def last_tokens(word: str, text: str, spans: Sequence[tuple[int, int]]) -> list[int]:
    """Return the index of a word's last token, once for each occurrence of the word in a text.

    ``word``: spelled as in the text; it may be punctuation, or several words. An occurrence inside
    a longer word does not count.
    ``spans``: where each token begins and ends in the text, in characters, in order. The spans of
    special tokens are empty.
    """
    places = [place for place, (start, end) in enumerate(spans) if start < end]
    starts = [spans[place][0] for place in places]
    before = r"(?<!\w)" if word[:1].isalnum() else ""
    after = r"(?!\w)" if word[-1:].isalnum() else ""
    indices = []
    for match in re.finditer(before + re.escape(word) + after, text):
        # the last token that begins before the word's end, if it does not end before the word
        index = bisect_left(starts, match.end()) - 1
        if index >= 0 and spans[places[index]][1] > match.start():
            indices.append(places[index])
    return indices
