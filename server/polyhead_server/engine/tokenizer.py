"""Texts -> tokens, by the tokenizer that a whole model's folder holds."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tokenizers import Tokenizer as _Tokenizer

from polyhead_server.errors import ModelFileError
from polyhead_server.forward_call import Token

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

__all__ = ["Tokenizer"]

FILE = "tokenizer.json"


class Tokenizer:
    """A model's tokenizer. Safe to use from several threads at once."""

    def __init__(self, text: str, max_length: int = 0, side: str = "right") -> None:
        """``text``: a tokenizer.json, whose own truncation and padding are not used.

        ``max_length``: number of tokens to which texts are cut on request, 0: none; ``side``: the
        end that is cut off. Raises ModelFileError.
        """
        try:
            self._whole, self._cut = (_Tokenizer.from_str(text) for _ in range(2))
            self._whole.no_truncation()
            self._whole.no_padding()
            self._cut.no_padding()
            self._cut.no_truncation()
            if max_length:
                self._cut.enable_truncation(max_length, direction=side)
        except Exception as error:  # tokenizers raises Exception itself
            raise ModelFileError("its tokenizer.json is not a tokenizer") from error
        num_special = self._whole.num_special_tokens_to_add(is_pair=False)
        if 0 < max_length <= num_special:
            raise ModelFileError(
                f"its tokenizer.json adds {num_special} tokens to each text, and the model is made "
                f"for {max_length}"
            )
        self.vocab_size: int = self._whole.get_vocab_size()

    @classmethod
    def of_folder(cls, folder: Path, max_length: int = 0, side: str = "right") -> Tokenizer | None:
        """Read the tokenizer of a version's folder; None if it has none. Raises ModelFileError."""
        file = folder / FILE
        if not file.exists():
            return None
        try:
            return cls(file.read_text("utf-8"), max_length, side)
        except (OSError, UnicodeError) as error:
            raise ModelFileError("its tokenizer.json cannot be read") from error

    def tokenize(self, texts: Sequence[str], *, truncate: bool) -> list[tuple[Token, ...]]:
        """Return the tokens of each text, with special tokens.

        ``truncate``: whether to cut texts to the model's length.
        """
        tokenizer = self._cut if truncate else self._whole
        return [
            tuple(
                Token(token, number, start, end)
                for token, number, (start, end) in zip(
                    encoding.tokens, encoding.ids, encoding.offsets, strict=True
                )
            )
            for encoding in tokenizer.encode_batch(list(texts))
        ]
