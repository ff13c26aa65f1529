"""A tokenizer.json in which values are replaced; what the library says of it is no matter.

It is written in Rust, and its panics are no Exception.
"""

from __future__ import annotations

import os

from tests.fuzz.json_values import changed, programs
from tokenizers import Tokenizer as Library
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors
from whole_infer import tokenizer_json

from polyhead_server.engine.tokenizer import Tokenizer
from polyhead_server.errors import ModelFileError

__all__ = ["check", "seeds"]

os.environ["RUST_BACKTRACE"] = "0"  # the backtrace of a panic takes 60 MiB


def check(data):
    _, text = changed(_TEXTS, data)
    for max_length in (0, 16):
        try:
            Tokenizer(text, max_length)
        except ModelFileError:
            continue


def seeds():
    return programs(_TEXTS)


def _bpe():
    made = Library(models.BPE({"a": 0, "b": 1, "ab": 2}, [("a", "b")], unk_token="a"))
    made.normalizer = normalizers.Sequence(
        [normalizers.NFD(), normalizers.StripAccents(), normalizers.Replace("x", "y")]
    )
    made.pre_tokenizer = pre_tokenizers.ByteLevel()
    made.decoder = decoders.ByteLevel()
    made.post_processor = processors.ByteLevel()
    made.add_special_tokens(["[CLS]"])
    made.enable_truncation(5)
    made.enable_padding()
    return made


def _unigram():
    made = Library(models.Unigram([("a", -1.0), ("b", -2.0)], 0, byte_fallback=True))
    made.normalizer = normalizers.Nmt()
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    made.post_processor = processors.TemplateProcessing(
        single="$A a:1", pair="$A a $B:1 a:1", special_tokens=[("a", 0)]
    )
    return made


def _word_piece():
    vocab = {"[UNK]": 0, "a": 1, "##b": 2, "[CLS]": 3, "[SEP]": 4}
    made = Library(models.WordPiece(vocab, unk_token="[UNK]", max_input_chars_per_word=10))
    made.normalizer = normalizers.BertNormalizer()
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.BertPreTokenizer(), pre_tokenizers.Split("a", "isolated")]
    )
    made.post_processor = processors.BertProcessing(("[SEP]", 4), ("[CLS]", 3))
    return made


_TEXTS = [tokenizer_json(), *(made().to_str() for made in (_bpe, _unigram, _word_piece))]
