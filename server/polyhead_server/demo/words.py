"""Words of sentences, and the tokens that a checkpoint's tokenizer makes of them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from polyhead.cli.command import UsageError

if TYPE_CHECKING:
    from polyhead.types import ForwardResult

__all__ = ["Word", "find", "readable"]


@dataclass(frozen=True)
class Word:
    """A word of a sentence, and its tokens."""

    word: str
    """The word, in lower case."""
    places: tuple[int, ...]
    """The indices of its tokens in the sentence. Never empty."""
    tokens: tuple[str, ...]
    """Its tokens, without the signs for spaces around words."""

    @property
    def last(self) -> int:
        """The last of its tokens: in a causal model it alone has seen the whole word."""
        return self.places[-1]

    @property
    def note(self) -> str:
        """Remark that the word is not one token of the vocabulary; empty if it is one."""
        if len(self.tokens) > 1:
            pieces = " ".join(self.tokens)
            return f"The tokenizer cuts {self.word} into {pieces}; the last piece stands for it."
        if self.tokens[0].lower() != self.word:
            return f"The vocabulary lacks {self.word}; {self.tokens[0]} stands for it."
        return ""


def find(result: ForwardResult, batch: int, word: str) -> Word:
    """Find where a word first occurs in a sentence, and its tokens there.

    Raises UsageError if the word is not in the sentence, or the tokenizer leaves it out.
    """
    start, end = span(result.texts[batch], word)
    places = [
        n
        for n, (token_start, token_end) in enumerate(result.token_spans[batch])
        if token_start < end and token_end > start
    ]
    if not places:
        raise UsageError(f"--checkpoint: its tokenizer makes no token of the word {word!r}")
    return Word(word, tuple(places), tuple(readable(result.tokens[batch][n]) for n in places))


def span(sentence: str, word: str) -> tuple[int, int]:
    """Return where a word, in upper or lower case, first begins and ends in a sentence.

    Raises UsageError if it is not there.
    """
    match = re.search(rf"(?<!\w){re.escape(word)}(?!\w)", sentence, re.IGNORECASE)
    if match is None:
        raise UsageError(f"--sentence has no word {word!r}, which --checkpoint shows: {sentence}")
    return match.span()


def readable(token: str) -> str:
    """Remove the signs for spaces that byte-level BPE, SentencePiece and CLIP write in tokens."""
    return token.lstrip("\u0120\u2581").removesuffix("</w>") or token
