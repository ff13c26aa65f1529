"""Tiny checkpoints of real families, with tokenizers of a few words."""

from __future__ import annotations

import re
import shutil
from typing import TYPE_CHECKING

from golden import GOLDEN
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from tokenizers.processors import TemplateProcessing

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

__all__ = ["SPECIAL", "tiny_checkpoint", "words_of"]

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
_VOCAB_SIZE = 40


def words_of(sentences: Sequence[str]) -> list[str]:
    """Return a vocabulary of the sentences' words."""
    return [*SPECIAL, *sorted(set(re.findall(r"\w+|\.", " ".join(sentences).lower())))]


def tiny_checkpoint(folder: Path, family: str, words: Sequence[str]) -> Path:
    """Copy a tiny checkpoint of 40 ids, with a tokenizer that cuts words into the pieces given."""
    checkpoint = folder / f"tiny-{family}"
    shutil.copytree(GOLDEN / family, checkpoint)
    vocabulary = {word: number for number, word in enumerate(words)}
    assert len(vocabulary) <= _VOCAB_SIZE
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    tokenizer.save(str(checkpoint / "tokenizer.json"))
    return checkpoint
