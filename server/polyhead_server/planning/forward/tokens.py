"""Tokenizes the texts of a request to a whole model, a few at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING

from polyhead_server.engine.tokenizer import LongTextError, TextLimits, Tokenizer
from polyhead_server.errors import InvalidRequestError
from polyhead_server.planning.forward.size import check_num_tokens

if TYPE_CHECKING:
    from collections.abc import Generator

    from polyhead_server.engine.whole_model import WholeModel
    from polyhead_server.forward_call import ForwardCall, TokenizedText
    from polyhead_server.settings import ServerSettings

__all__ = ["read_tokens"]

_LONG_TEXT_BYTES = 1 << 10
"""More memory than a token of a long text takes, with what the library has of it meanwhile."""


def read_tokens(
    call: ForwardCall, model: WholeModel, settings: ServerSettings
) -> Generator[int, None, tuple[TokenizedText, ...]]:
    """Tokenize a request's texts step by step; the generator's value has each text's tokens.

    Each step yields the memory of its tokens in bytes. Raises InvalidRequestError for the first
    text that does not fit, and LimitExceededError for more tokens than a response may have.
    """
    tokens: list[TokenizedText] = []
    if model.tokenizer is not None and call.texts:
        num_taken = next(
            each.max_length for each in model.config.stacks if each.input == "token_ids"
        )
        limits = _limits(settings, num_taken)
        _check_pairs(call, model.tokenizer)
        steps = model.tokenizer.tokenize(
            call.texts, call.text_pairs, truncate=call.truncate, limits=limits
        )
        num_tokens = 0
        try:
            for step in steps:
                for each in step.texts:
                    _check_tokens(call, len(tokens), each, limits)
                    tokens.append(each)
                num_tokens += sum(each.num_tokens for each in step.texts)
                check_num_tokens(num_tokens, settings.max_response_bytes)
                yield step.num_bytes
        except LongTextError as error:
            raise _too_long(error, limits) from error
    return tuple(tokens)


def _limits(settings: ServerSettings, num_taken: int) -> TextLimits:
    """Return how much of a text becomes tokens; ``num_taken``: by the model, 0: any number."""
    return TextLimits(
        max_characters=settings.max_text_characters,
        max_tokens=min(settings.max_text_characters, settings.max_queue_bytes // _LONG_TEXT_BYTES),
        num_taken=num_taken,
    )


def _too_long(error: LongTextError, limits: TextLimits) -> InvalidRequestError:
    """Return the error of a text of too many characters or tokens."""
    most, got, flags = limits.max_characters, f"{error.number}", "--max-text-characters"
    if error.unit == "tokens":
        most, got = limits.max_tokens, f"at least {error.number}"
        if most < limits.max_characters:
            flags = "--max-queue-bytes"
    return InvalidRequestError(
        f"{error.field}[{error.index}]",
        f"has {got} {error.unit}; expected at most {most}; send it in parts, or raise the server's "
        f"{flags}",
        "TOO_LONG",
    )


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


def _check_tokens(call: ForwardCall, index: int, tokens: TokenizedText, limits: TextLimits) -> None:
    """Refuse a text without tokens, or with more than the model takes."""
    texts = {"texts": call.texts[index]}
    if call.text_pairs:
        texts["text_pairs"] = call.text_pairs[index]
    for field, text in texts.items():
        if not (text.strip() and tokens.num_tokens):
            raise InvalidRequestError(f"{field}[{index}]", "is empty; expected a text", "EMPTY")
    if 0 < limits.num_taken < tokens.num_tokens:
        least = "at least " if any(map(limits.may_leave_out, texts.values())) else ""
        together = " with its second text" if call.text_pairs else ""
        raise InvalidRequestError(
            f"texts[{index}]",
            f"has {least}{tokens.num_tokens} tokens{together}, and the model takes "
            f"{limits.num_taken}; shorten it, or set truncate=True",
            "TOO_LONG",
        )
