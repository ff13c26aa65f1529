"""Texts -> tokens, by the tokenizer that a whole model's folder holds."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from tokenizers import Encoding
from tokenizers import Tokenizer as _Tokenizer

from polyhead_models.store import TOKENIZER_FILE
from polyhead_server.errors import ModelFileError
from polyhead_server.forward_call import Token

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path
    from typing import TypeAlias

    _Entry: TypeAlias = str | tuple[str, str]
    """A text, or a text and its second text."""

__all__ = ["LongTextError", "Tokenizer", "is_far_too_long"]

MAX_BYTES = 128 << 20
"""Longest tokenizer.json that is read. Those with 260,000 tokens have 35 MB."""
_PROBE = "The river-bank, 1 \u00fc \U0001f30a"
"""A text of words, digits, punctuation, and characters that many vocabularies lack."""
_GROUP_CHARACTERS = 1 << 15
"""Characters of several texts that become tokens at once, which takes some 30 ms."""
_TOKEN_CHARACTERS = 16
"""More characters than the tokens of most texts have on average."""


class LongTextError(Exception):
    """A text has more characters than are made tokens at once."""

    def __init__(self, field: str, index: int, num_characters: int) -> None:
        super().__init__(field, index, num_characters)
        self.field = field
        """texts or text_pairs."""
        self.index = index
        """The text's place in the field."""
        self.num_characters = num_characters


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
        self.takes_pairs = True
        """Whether it makes one sequence of two texts, also if that is cut."""
        try:
            self._try(_PROBE)
        except Exception:  # noqa: BLE001 - tokenizers raises Exception itself
            self.takes_pairs = False

    def _try(self, *text_pairs: str) -> None:
        """Make tokens of a text, whole and cut."""
        for truncate in (False, True):
            groups = self.tokenize(
                [_PROBE], text_pairs, truncate=truncate, max_characters=len(_PROBE)
            )
            list(groups)

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
        limit: int = 0,
        max_characters: int,
    ) -> Iterator[list[tuple[Token, ...]]]:
        """Yield the tokens of each text, with special tokens, those of a few texts at a time.

        ``text_pairs``: the second text of each text, whose tokens follow; empty: there are none.
        ``truncate``: whether to cut texts to the model's length.
        ``limit``: most tokens that the model takes, 0: any number. Of a text that is far too long
        only the first tokens are returned, which are more.
        ``max_characters``: most characters of a text that are made tokens. A megabyte takes a
        second or more, and nothing can end that. Raises LongTextError where more are needed.
        """
        tokenizer = self._cut if truncate else self._whole
        enough = self._enough_to_cut if truncate else limit
        if truncate and text_pairs:
            enough = 0  # all is needed, because the lengths of both decide what is cut off
        first = self._beginnings("texts", texts, enough, max_characters)
        second = self._beginnings("text_pairs", text_pairs, enough, max_characters)
        for group in _groups(zip(first, second, strict=True) if text_pairs else first):
            yield [_tokens_of(encoding) for encoding in _encode(tokenizer, group)]

    def _beginnings(
        self, field: str, texts: Iterable[str], enough: int, max_characters: int
    ) -> Iterator[str]:
        """Yield of each text the beginning that has more than enough tokens, or all of it."""
        for index, text in enumerate(texts):
            beginning = self._beginning(text, enough, max_characters)
            if len(beginning) > max_characters:
                raise LongTextError(field, index, len(text))
            yield beginning

    def _beginning(self, text: str, enough: int, max_characters: int) -> str:
        """Return the beginning of a text that has more than enough tokens, or all of it.

        ``enough`` 0: all of it is needed. The beginning ends between two words, so that its tokens
        are those of the whole text.
        """
        size = _TOKEN_CHARACTERS * enough
        while 0 < size < min(len(text), 2 * max_characters):
            part = text[: min(size, max_characters)]
            words = part.rsplit(maxsplit=1)
            beginning = words[0] if len(words) > 1 else part
            if len(_encode(self._whole, [beginning])[0]) > enough:
                return beginning
            size *= 2
        return text


def _tokens_of(encoding: Encoding) -> tuple[Token, ...]:
    columns = encoding.tokens, encoding.ids, encoding.offsets, encoding.sequence_ids
    return tuple(
        Token(token, number, start, end, text_index or 0, type_id)  # None: a special token
        for token, number, (start, end), text_index, type_id in zip(
            *columns, encoding.type_ids, strict=True
        )
    )


def is_far_too_long(text: str, limit: int) -> bool:
    """Whether tokens of a text may be the first ones only; ``limit``: as for tokenize."""
    return 0 < _TOKEN_CHARACTERS * limit < len(text)


def _groups(entries: Iterable[_Entry]) -> Iterator[list[_Entry]]:
    """Divide texts into groups, each of which ends with the text that makes it large enough."""
    group: list[_Entry] = []
    size = 0
    for entry in entries:
        group.append(entry)
        size += len(entry) if isinstance(entry, str) else sum(map(len, entry))
        if size >= _GROUP_CHARACTERS:
            yield group
            group, size = [], 0
    if group:
        yield group


def _encode(tokenizer: _Tokenizer, entries: Sequence[_Entry]) -> list[Encoding]:
    """Make tokens of texts. Raises RuntimeError where the library panics."""
    with _panics_as_errors():
        return tokenizer.encode_batch(entries)


@contextmanager
def _panics_as_errors() -> Iterator[None]:
    """Raise RuntimeError where the library panics, because its panics are no Exception."""
    try:
        yield
    except (Exception, KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:
        raise RuntimeError("the tokenizer failed") from error
