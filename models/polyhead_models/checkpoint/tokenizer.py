"""Reads a checkpoint's tokenizer.json and tokenizer_config.json, without the tokenizers library."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from polyhead_models.checkpoint.files import CheckpointError, read_json_object
from polyhead_models.config import MAX_DIM
from polyhead_models.store import TOKENIZER_FILE

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["TokenizerFiles"]

_CONFIG_FILE = "tokenizer_config.json"
_ANY_CLASS = {"PreTrainedTokenizerFast", "TokenizersBackend"}
"""transformers' classes that use tokenizer.json unchanged. Other classes change it by the
configuration."""
_SAME = {
    "do_lower_case": ("normalizer", "BertNormalizer", "lowercase"),
    "strip_accents": ("normalizer", "BertNormalizer", "strip_accents"),
    "tokenize_chinese_chars": ("normalizer", "BertNormalizer", "handle_chinese_chars"),
    "add_prefix_space": ("pre_tokenizer", "ByteLevel", "add_prefix_space"),
}
"""Keys of tokenizer_config.json, and the equivalent keys of parts of tokenizer.json."""


@dataclass(frozen=True, kw_only=True)
class TokenizerFiles:
    """The facts about a checkpoint's tokenizer that its files state."""

    file: Path
    """The tokenizer.json."""
    largest_id: int
    """Largest id of a token, without special tokens beside the vocabulary."""
    max_length: int
    """Longest text in tokens, by the configuration; 0 if it states none."""
    truncation_side: str
    """The end that is cut off longer texts: right or left."""

    @classmethod
    def read(cls, folder: Path) -> TokenizerFiles | None:
        """Read the files of a folder; None if it has no tokenizer.json.

        Raises CheckpointError if they are damaged, or contradict each other.
        """
        file = folder / TOKENIZER_FILE
        if not file.is_file():
            return None
        tokenizer = read_json_object(file)
        config_file = folder / _CONFIG_FILE
        config = read_json_object(config_file) if config_file.is_file() else {}
        _check_same(config_file, config, tokenizer)
        stated = config.get("model_max_length")
        side = config.get("truncation_side") or _inner(tokenizer, "truncation").get("direction")
        return cls(
            file=file,
            largest_id=max(_ids(file, tokenizer), default=0),
            # files without a length have 1e30
            max_length=stated if type(stated) is int and 0 < stated <= MAX_DIM else 0,
            truncation_side="left" if str(side).lower() == "left" else "right",
        )

    def check_vocabulary(self, vocab_size: int) -> None:
        """Raise CheckpointError if the model's word embeddings lack an id of the tokenizer."""
        if self.largest_id >= vocab_size:
            raise CheckpointError(
                f"{self.file} has the token id {self.largest_id}, and the model's table of words "
                f"has {vocab_size} rows: the tokenizer belongs to another model; put the right one "
                "in its place, or move it away to export the model for token ids only"
            )


def _check_same(config_file: Path, config: dict[str, Any], tokenizer: dict[str, Any]) -> None:
    """Raise CheckpointError if transformers would not tokenise by tokenizer.json alone."""
    if config.get("tokenizer_class") in _ANY_CLASS:
        return
    for key, (section, kind, same_key) in _SAME.items():
        part = _inner(tokenizer, section)
        others = part.get("normalizers") or part.get("pretokenizers")
        for each in [part, *(others if isinstance(others, list) else [])]:
            if not isinstance(each, dict) or each.get("type") != kind:
                continue
            expected, actual = config.get(key), each.get(same_key)
            if isinstance(expected, bool) and expected != actual:
                raise CheckpointError(
                    f"{config_file} says {key}={expected}, but the {section} of {TOKENIZER_FILE} "
                    f"has {same_key}={actual}: transformers follows the first, and polyhead reads "
                    "the second only; make them equal: AutoTokenizer.from_pretrained(folder)"
                    ".save_pretrained(folder) writes both files as transformers reads them"
                )


def _inner(values: dict[str, Any], key: str) -> dict[str, Any]:
    inner = values.get(key)
    return inner if isinstance(inner, dict) else {}


def _ids(file: Path, tokenizer: dict[str, Any]) -> Iterator[int]:
    """Yield the ids of tokens; raise CheckpointError if there is no vocabulary.

    Special tokens beside the vocabulary may have ids above the model's table, as Gemma 3's
    <image_soft_token> has. A text that spells one out is refused when it is sent.
    """
    vocab, added = _inner(tokenizer, "model").get("vocab"), tokenizer.get("added_tokens")
    if isinstance(vocab, list):  # Unigram: pairs of token and score, by id
        yield len(vocab) - 1
    elif isinstance(vocab, dict) and all(type(number) is int for number in vocab.values()):
        yield from vocab.values()
    else:
        raise CheckpointError(
            f"{file} is not a tokenizer, because it has no model with a vocab; download it again, "
            "or move it away to export the model for token ids only"
        )
    for token in added if isinstance(added, list) else ():
        if isinstance(token, dict) and type(token.get("id")) is int and not token.get("special"):
            yield token["id"]
