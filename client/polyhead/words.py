"""Find the tokens of a text's words. Client and server share this module."""

from __future__ import annotations

import re
from bisect import bisect_left
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["last_tokens", "last_tokens_in_texts", "spans_by_text"]


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


def last_tokens_in_texts(
    word: str, texts: Sequence[str], spans: Sequence[Sequence[tuple[int, int]]]
) -> list[int]:
    """Return what last_tokens returns, of a sequence that was made of one text or of two.

    ``spans``: for each text, as spans_by_text returns them.
    """
    return [
        place
        for text, spans_of_text in zip(texts, spans, strict=True)
        for place in last_tokens(word, text, spans_of_text)
    ]


def spans_by_text(
    spans: Sequence[tuple[int, int]], text_indices: Sequence[int], num_texts: int
) -> list[list[tuple[int, int]]]:
    """Return the spans of a sequence's tokens in each text; tokens of other texts have empty ones.

    ``text_indices``: for each token, the text in which its span counts.
    """
    return [
        [span if index == text else (0, 0) for span, index in zip(spans, text_indices, strict=True)]
        for text in range(num_texts)
    ]
