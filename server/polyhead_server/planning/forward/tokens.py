"""Tokenizes the texts of a request to a whole model, a few at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING

from polyhead_server.engine.tokenizer import LongTextError, Tokenizer, is_far_too_long
from polyhead_server.errors import InvalidRequestError
from polyhead_server.planning.forward.size import check_num_tokens

if TYPE_CHECKING:
    from collections.abc import Generator

    from polyhead_server.engine.whole_model import WholeModel
    from polyhead_server.forward_call import ForwardCall, Token
    from polyhead_server.settings import ServerSettings

__all__ = ["read_tokens"]

_TOKEN_BYTES = 256
"""Memory of a token of a text: 190 bytes, and its element of the model's input."""


def read_tokens(
    call: ForwardCall, model: WholeModel, settings: ServerSettings
) -> Generator[int, None, tuple[tuple[Token, ...], ...]]:
    """Tokenize a request's texts step by step; the generator's value has each text's tokens.

    Each step yields the memory of its tokens in bytes. Raises InvalidRequestError for the first
    text that does not fit, and LimitExceededError for more tokens than a response may have.
    """
    tokens: list[tuple[Token, ...]] = []
    if model.tokenizer is not None and call.texts:
        limit = next(each.max_length for each in model.config.stacks if each.input == "token_ids")
        max_characters = settings.max_text_characters
        _check_pairs(call, model.tokenizer)
        groups = model.tokenizer.tokenize(
            call.texts,
            call.text_pairs,
            truncate=call.truncate,
            limit=limit,
            max_characters=max_characters,
        )
        num_tokens = 0
        try:
            for group in groups:
                for each in group:
                    _check_tokens(call, len(tokens), each, limit)
                    tokens.append(each)
                num_new = sum(map(len, group))
                num_tokens += num_new
                check_num_tokens(num_tokens, settings.max_response_bytes)
                yield num_new * _TOKEN_BYTES
        except LongTextError as error:
            raise InvalidRequestError(
                f"{error.field}[{error.index}]",
                f"has {error.num_characters} characters; expected at most {max_characters}; send "
                "it in parts, or raise the server's --max-text-characters",
                "TOO_LONG",
            ) from error
    return tuple(tokens)


def _check_pairs(call: ForwardCall, tokenizer: Tokenizer) -> None:
    """Refuse second texts that do not belong to the texts, or of which no sequence can be made."""
    if not call.text_pairs:
        return
    if len(call.text_pairs) != len(call.texts):
        raise InvalidRequestError(
            "text_pairs",
            f"expected {len(call.texts)} entries, one for each of texts; got "
            f"{len(call.text_pairs)}",
            "SHAPE_MISMATCH",
        )
    if not tokenizer.takes_pairs:
        raise InvalidRequestError(
            "text_pairs",
            "is set, but the model's tokenizer makes no sequence of two texts; send one text",
            "NOT_APPLICABLE",
        )


def _check_tokens(call: ForwardCall, index: int, tokens: tuple[Token, ...], limit: int) -> None:
    """Refuse a text without tokens, or with more than ``limit``; 0: any number."""
    texts = {"texts": call.texts[index]}
    if call.text_pairs:
        texts["text_pairs"] = call.text_pairs[index]
    for field, text in texts.items():
        if not (text.strip() and tokens):
            raise InvalidRequestError(f"{field}[{index}]", "is empty; expected a text", "EMPTY")
    if 0 < limit < len(tokens):
        is_first_part = any(is_far_too_long(text, limit) for text in texts.values())
        least = "at least " if is_first_part else ""
        together = " with its second text" if call.text_pairs else ""
        raise InvalidRequestError(
            f"texts[{index}]",
            f"has {least}{len(tokens)} tokens{together}, and the model takes {limit}; shorten it, "
            "or set truncate=True",
            "TOO_LONG",
        )
