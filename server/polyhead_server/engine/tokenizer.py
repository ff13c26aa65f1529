"""Texts -> tokens, by the tokenizer that a whole model's folder holds."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from tokenizers import Encoding
from tokenizers import Tokenizer as _Tokenizer

from polyhead_models.store import TOKENIZER_FILE
from polyhead_server.errors import ModelFileError
from polyhead_server.forward_call import TokenizedText

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Sequence
    from pathlib import Path
    from typing import TypeAlias

    _Entry: TypeAlias = str | tuple[str, str]
    """A text, or a text and its second text."""

__all__ = ["LongTextError", "TextLimits", "Tokenizer", "TokenizingStep"]

MAX_BYTES = 128 << 20
"""Longest tokenizer.json that is read. Those with 260,000 tokens have 35 MB."""
_PROBE = "The river-bank, 1 \u00fc \U0001f30a"
"""A text of words, digits, punctuation, and characters that many vocabularies lack."""
_GROUP_CHARACTERS = 1 << 15
"""Characters of several texts that become tokens at once, which takes some 30 ms."""
_PART_CHARACTERS = 1 << 13
"""Characters of a long text whose tokens are counted at once, which takes some 10 ms."""
_CHARACTERS_OF_TOKEN = 16
"""More characters than the tokens of most texts have on average."""
_TOKEN_BYTES = 256
"""More memory than a token of a text takes, with its element of the model's input."""
_ENCODING_BYTES = 400
"""Memory of a token in the library until all tokens of a text are read: 300 to 330 bytes were
measured, 590 with its characters where one character of the text becomes 18."""


@dataclass(frozen=True)
class TextLimits:
    """How much of a text becomes tokens."""

    max_characters: int
    """A megabyte takes a second or more, and nothing can end that."""
    max_tokens: int
    """One character may become several tokens."""
    num_taken: int = 0
    """Tokens that the model takes, 0: any number. More of them need not be made to refuse a text,
    or to cut it."""

    @property
    def part_characters(self) -> int:
        """Characters of a long text whose tokens are counted at once."""
        enough = _CHARACTERS_OF_TOKEN * self.num_taken or _PART_CHARACTERS
        return min(enough, _PART_CHARACTERS, self.max_characters)

    def may_leave_out(self, text: str) -> bool:
        """Whether the tokens of a text may be the first ones only."""
        return self.num_taken > 0 and len(text) > self.part_characters


class LongTextError(Exception):
    """A text has more characters or tokens than are made at once."""

    def __init__(self, field: str, index: int, unit: str, number: int) -> None:
        super().__init__(field, index, unit, number)
        self.field = field
        """texts or text_pairs."""
        self.index = index
        """The text's place in the field."""
        self.unit = unit
        """characters or tokens."""
        self.number = number
        """All characters, or the tokens that were counted until they were too many."""


class _TooLongError(Exception):
    """A text has more than the limits allow: the unit and the number."""


_PROBE_LIMITS = TextLimits(max_characters=len(_PROBE), max_tokens=len(_PROBE))


class TokenizingStep(NamedTuple):
    """What a part of the work gave."""

    num_bytes: int
    """Memory that the tokens take, of a long text before they are made."""
    texts: list[TokenizedText]
    """The tokens of the next few texts; empty while those of a long text are counted."""


class Tokenizer:
    """A model's tokenizer. Safe to use from several threads at once."""

    def __init__(self, text: str, max_length: int = 0, side: str = "right") -> None:
        """``text``: a tokenizer.json, whose own truncation and padding are not used.

        ``max_length``: number of tokens to which texts are cut on request, 0: none; ``side``: the
        end that is cut off. Raises ModelFileError.
        """
        try:
            with _panics_as_errors():
                self._whole, self._cut = (_Tokenizer.from_str(text) for _ in range(2))
                self._whole.no_truncation()
                self._whole.no_padding()
                self._cut.no_padding()
                self._cut.no_truncation()
                if max_length:
                    self._cut.enable_truncation(max_length, direction=side)
                num_special = self._whole.num_special_tokens_to_add(is_pair=False)
                self.vocab_size: int = self._whole.get_vocab_size()
        except Exception as error:  # tokenizers raises Exception itself
            raise ModelFileError("its tokenizer.json is not a tokenizer") from error
        if 0 < max_length <= num_special:
            raise ModelFileError(
                f"its tokenizer.json adds {num_special} tokens to each text, and the model is made "
                f"for {max_length}"
            )
        self._enough_to_cut = max_length if side == "right" else 0
        """Tokens of a text's beginning that are enough to cut it; 0: all of it is needed."""
        try:
            self._try()
        except Exception as error:  # parts that do not fit together are found when it runs
            raise ModelFileError("its tokenizer.json is not a tokenizer") from error
        self.takes_pairs: bool
        """Whether it makes one sequence of two texts, also if that is cut."""
        try:
            # a template may leave out the second text
            self.takes_pairs = bool(self._try(_PROBE).text_indices.any())
        except Exception:  # noqa: BLE001 - tokenizers raises Exception itself
            self.takes_pairs = False

    def _try(self, *text_pairs: str) -> TokenizedText:
        """Make tokens of a text, whole and cut; return the whole text's."""
        whole, _ = (
            [*self.tokenize([_PROBE], text_pairs, truncate=truncate, limits=_PROBE_LIMITS)]
            for truncate in (False, True)
        )
        return whole[0].texts[0]

    @classmethod
    def of_folder(
        cls,
        folder: Path,
        max_length: int = 0,
        side: str = "right",
        max_bytes: int = MAX_BYTES,
    ) -> Tokenizer | None:
        """Read the tokenizer of a version's folder; None if there is none.

        Raises ModelFileError.
        """
        file = folder / TOKENIZER_FILE
        if not file.exists():
            return None
        if not file.is_file() or file.stat().st_size > max_bytes:
            raise ModelFileError(f"its tokenizer.json is not a file of at most {max_bytes:,} bytes")
        try:
            return cls(file.read_text("utf-8"), max_length, side)
        except (OSError, UnicodeError) as error:
            raise ModelFileError("its tokenizer.json cannot be read") from error

    def tokenize(
        self,
        texts: Sequence[str],
        text_pairs: Sequence[str] = (),
        *,
        truncate: bool,
        limits: TextLimits,
    ) -> Iterator[TokenizingStep]:
        """Make the tokens of each text, with special tokens, step by step.

        ``text_pairs``: the second text of each text, whose tokens follow; empty: there are none.
        ``truncate``: whether to cut texts to the model's length. Of a text that is far too long
        only the first tokens are returned, which are more than the model takes. Raises
        LongTextError for the first text of which more is needed than the limits allow.
        """
        tokenizer = self._cut if truncate else self._whole
        enough = self._enough_to_cut if truncate else limits.num_taken
        if truncate and text_pairs:
            enough = 0  # all is needed, because the lengths of both decide what is cut off
        limits = replace(limits, num_taken=enough)
        fields = {"texts": texts} | ({"text_pairs": text_pairs} if text_pairs else {})
        for group in _groups([*fields.values()]):
            entries: list[_Entry] = []
            for index in group:
                parts = []
                for field, each in fields.items():
                    try:
                        parts.append((yield from self._beginning(each[index], limits)))
                    except _TooLongError as error:
                        raise LongTextError(field, index, *error.args) from None
                entries.append(parts[0] if len(parts) == 1 else (parts[0], parts[1]))
            tokens = [_tokens_of(encoding) for encoding in _encode(tokenizer, entries)]
            yield TokenizingStep(_TOKEN_BYTES * sum(each.num_tokens for each in tokens), tokens)

    def _beginning(self, text: str, limits: TextLimits) -> Generator[TokenizingStep, None, str]:
        """Return the beginning of a text that has more tokens than the model takes, or all of it.

        The tokens of a long text are counted part by part before all are made at once, because a
        text of 250,000 characters may have 1,500,000 of them, which take 900 MB. A beginning ends
        between two words, so that its tokens are those of the whole text.
        """
        size, enough = limits.part_characters, limits.num_taken
        if len(text) <= size:
            return text
        if not enough and len(text) > limits.max_characters:
            raise _TooLongError("characters", len(text))
        end = num_tokens = check_at = 0
        while end < len(text):
            if end >= limits.max_characters:
                raise _TooLongError("characters", len(text))
            stop = min(end + size, limits.max_characters)
            part = text[end:stop] if stop >= len(text) else _without_last_word(text[end:stop])
            end += len(part)
            num_tokens += (num_new := self._count(part))
            if num_tokens > limits.max_tokens:
                raise _TooLongError("tokens", num_tokens)
            yield TokenizingStep(_ENCODING_BYTES * num_new, [])
            if 0 < enough < num_tokens and end > check_at:
                if end > len(part):  # parts have more tokens than the whole if they divide a word
                    num_tokens, check_at = self._count(text[:end]), 2 * end
                if num_tokens > enough:
                    break
        return text[:end]

    def _count(self, text: str) -> int:
        """Return how many tokens a text has without special ones."""
        [encoding] = _encode(self._whole, [text], add_special_tokens=False)
        return len(encoding)


def _tokens_of(encoding: Encoding) -> TokenizedText:
    text_indices = encoding.sequence_ids
    return TokenizedText(
        encoding.tokens,
        np.array(encoding.ids, np.int64),
        np.array(encoding.offsets, np.int32).reshape(-1, 2),
        np.array([index or 0 for index in text_indices], np.int32),  # None: a special token
        np.array(encoding.type_ids, np.int32),
    )


def _without_last_word(part: str) -> str:
    """Leave out the last word of a part, which may go on after it, unless there is only one."""
    words = part.rsplit(maxsplit=1)
    return words[0] if len(words) > 1 else part


def _groups(fields: Sequence[Sequence[str]]) -> Iterator[range]:
    """Divide the places of texts, each of which ends with the text that makes it large enough."""
    first = size = 0
    for index, entry in enumerate(zip(*fields, strict=True)):
        size += sum(map(len, entry))
        if size >= _GROUP_CHARACTERS or index == len(fields[0]) - 1:
            yield range(first, index + 1)
            first, size = index + 1, 0


def _encode(
    tokenizer: _Tokenizer, entries: Sequence[_Entry], *, add_special_tokens: bool = True
) -> list[Encoding]:
    """Make tokens of texts. Raises RuntimeError where the library panics."""
    with _panics_as_errors():
        # several at once, because the library keeps Python's lock where it makes those of one
        return tokenizer.encode_batch(entries, add_special_tokens=add_special_tokens)


@contextmanager
def _panics_as_errors() -> Iterator[None]:
    """Raise RuntimeError where the library panics, because its panics are no Exception."""
    try:
        yield
    except (Exception, KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:
        raise RuntimeError("the tokenizer failed") from error
