"""The input of a BERT-family checkpoint's first layer: tokens and their embeddings."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from tokenizers import BertWordPieceTokenizer, Tokenizer
from tokenizers.models import WordPiece

from polyhead_models.checkpoint.files import CheckpointError, Tensors, read_json_object

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

__all__ = ["embed_tokens", "tokenize"]

_WORD_EMBEDDINGS = "embeddings.word_embeddings.weight"
_POSITIONS_AFTER_PADDING = ("roberta", "xlm-roberta", "camembert")
"""Families that count positions from pad_token_id + 1, as fairseq does."""


def tokenize(folder: Path, sentence: str) -> tuple[list[str], list[int]]:
    """Return a sentence's tokens and their ids, including special tokens such as [CLS].

    Raises CheckpointError if the folder has no readable tokenizer.
    """
    encoding = _load_tokenizer(folder).encode(sentence)
    return encoding.tokens, encoding.ids


def embed_tokens(folder: Path, ids: Sequence[int]) -> NDArray[np.float32]:
    """Return the hidden states that layer 0 attends over: (1, tokens, embed_dim).

    Word, position and, in families that have them, token type embeddings are added and normalised.
    ELECTRA then projects them if its embeddings are narrower than its layers.

    Raises CheckpointError if the folder lacks a tensor, or has too few positions.
    """
    settings = read_json_object(folder / "config.json")
    tensors = Tensors.of_folder(folder)
    prefix = _prefix(tensors)
    start = _first_position(settings)
    positions = np.arange(start, start + len(ids))

    hidden = _look_up(tensors, f"{prefix}{_WORD_EMBEDDINGS}", np.asarray(ids))
    hidden += _look_up(tensors, f"{prefix}embeddings.position_embeddings.weight", positions)
    if (token_types := f"{prefix}embeddings.token_type_embeddings.weight") in tensors.files:
        hidden += _look_up(tensors, token_types, np.zeros(len(ids), dtype=np.int64))
    hidden = _layer_norm(hidden, tensors, prefix, _epsilon(settings))

    if (projection := f"{prefix}embeddings_project.weight") in tensors.files:
        weight = tensors.read(projection, tensors.shape(projection))
        bias = tensors.read(f"{prefix}embeddings_project.bias", weight.shape[:1])
        hidden = hidden @ weight.astype(np.float64).T + bias
    return hidden.astype(np.float32)[np.newaxis]


def _load_tokenizer(folder: Path) -> Tokenizer | BertWordPieceTokenizer:
    """Read tokenizer.json, or else BERT's older vocab.txt of word pieces."""
    if (file := folder / "tokenizer.json").is_file():
        try:
            tokenizer = Tokenizer.from_file(str(file))
        except Exception as error:  # the library raises no narrower type
            raise CheckpointError(f"{file} is not a readable tokenizer: {error}") from error
        # some files would pad every sentence to a fixed length
        tokenizer.no_padding()
        tokenizer.no_truncation()
        return tokenizer
    if (file := folder / "vocab.txt").is_file():
        config_file = folder / "tokenizer_config.json"
        config = read_json_object(config_file) if config_file.is_file() else {}
        try:
            return BertWordPieceTokenizer(
                WordPiece.read_file(str(file)), lowercase=bool(config.get("do_lower_case", True))
            )
        except Exception as error:  # as above
            raise CheckpointError(f"{file} is not a word piece vocabulary: {error}") from error
    raise CheckpointError(
        f"{folder} holds neither tokenizer.json nor vocab.txt; download the checkpoint's tokenizer "
        "with its weights"
    )


def _prefix(tensors: Tensors) -> str:
    prefixes = tensors.prefixes(_WORD_EMBEDDINGS)
    if len(prefixes) != 1:
        raise CheckpointError(
            f"{tensors.origin} holds {len(prefixes)} tensors named {_WORD_EMBEDDINGS}; expected one"
        )
    return prefixes[0]


def _first_position(settings: Mapping[str, Any]) -> int:
    if settings.get("model_type") not in _POSITIONS_AFTER_PADDING:
        return 0
    padding = settings.get("pad_token_id", 1)
    if type(padding) is not int or padding < 0:
        raise CheckpointError(f"config.json: pad_token_id is {padding!r}; expected a token id")
    return padding + 1


def _epsilon(settings: Mapping[str, Any]) -> float:
    epsilon = settings.get("layer_norm_eps", 1e-12)
    if type(epsilon) not in (int, float) or not 0 <= epsilon < 1:
        raise CheckpointError(f"config.json: layer_norm_eps is {epsilon!r}; expected, say, 1e-12")
    return float(epsilon)


def _look_up(tensors: Tensors, name: str, indices: NDArray[np.int64]) -> NDArray[np.float64]:
    """Look up rows of an embedding table."""
    shape = tensors.shape(name)
    if len(shape) != 2 or indices.max() >= shape[0]:
        raise CheckpointError(
            f"tensor {name} has shape {shape}, and row {indices.max()} was asked for; shorten the "
            "sentence, or check that tokenizer and weights belong together"
        )
    return tensors.read(name, shape)[indices].astype(np.float64)


def _layer_norm(
    x: NDArray[np.float64], tensors: Tensors, prefix: str, epsilon: float
) -> NDArray[np.float64]:
    # checkpoints converted from TensorFlow name weight and bias gamma and beta
    module = f"{prefix}embeddings.LayerNorm"
    names = ("gamma", "beta") if f"{module}.gamma" in tensors.files else ("weight", "bias")
    gain, bias = (tensors.read(f"{module}.{name}", x.shape[-1:]) for name in names)
    centred = x - x.mean(axis=-1, keepdims=True)
    variance = (centred**2).mean(axis=-1, keepdims=True)
    normed: NDArray[np.float64] = centred / np.sqrt(variance + epsilon) * gain + bias
    return normed
