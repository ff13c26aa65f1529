"""Checks a checkpoint's tokenizer.json, which the server reads, without the tokenizer's library."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from polyhead_models.checkpoint.files import CheckpointError, read_json_object

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["TOKENIZER_FILE", "check_tokenizer"]

TOKENIZER_FILE = "tokenizer.json"


def check_tokenizer(file: Path, vocab_size: int) -> None:
    """Raise CheckpointError if a tokenizer gives ids that the model's table of words lacks."""
    largest = max(_ids(read_json_object(file)), default=0)
    if largest >= vocab_size:
        raise CheckpointError(
            f"{file} has the token id {largest}, and the model's table of words has "
            f"{vocab_size} rows: the tokenizer belongs to another model; put the right one in its "
            "place, or move it away to export the model for token ids only"
        )


def _ids(tokenizer: dict[str, Any]) -> Iterator[int]:
    """Yield the ids of all tokens; in what is not a tokenizer, of none."""
    model, added = tokenizer.get("model"), tokenizer.get("added_tokens")
    vocab = model.get("vocab") if isinstance(model, dict) else None
    if isinstance(vocab, dict):
        yield from (number for number in vocab.values() if type(number) is int)
    elif isinstance(vocab, list):  # Unigram: pairs of token and score, by id
        yield len(vocab) - 1
    for token in added if isinstance(added, list) else ():
        if isinstance(token, dict) and type(token.get("id")) is int:
            yield token["id"]
