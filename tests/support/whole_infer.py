"""Whole models as tritonclient calls them, and a tokenizer of a few words."""

from __future__ import annotations

import json

import numpy as np
from golden import GOLDEN
from tritonclient_requests import inputs_of

from polyhead_models.checkpoint.checkpoint import Checkpoint
from polyhead_models.checkpoint.families import FAMILIES

__all__ = ["IDS", "MASK", "RECORDED", "ids_of", "names_of", "texts_of", "tokenizer_json"]

RECORDED = [
    file.parent.name
    for file in sorted(GOLDEN.glob("*/whole.npz"))
    if FAMILIES[Checkpoint.open(file.parent).model_type].whole
]
"""Recorded whole models that can be exported."""
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "the", "bank", "of", "river"]
IDS = np.array([[2, 4, 5, 3], [2, 5, 3, 0]])
MASK = np.array([[1, 1, 1, 1], [1, 1, 1, 0]])


def tokenizer_json():
    """A tokenizer of a few words, as tokenizers writes it."""
    ids = {word: number for number, word in enumerate(WORDS)}
    special = [{"id": name, "ids": [ids[name]], "tokens": [name]} for name in ("[CLS]", "[SEP]")]
    single = [
        {"SpecialToken": {"id": "[CLS]", "type_id": 0}},
        {"Sequence": {"id": "A", "type_id": 0}},
        {"SpecialToken": {"id": "[SEP]", "type_id": 0}},
    ]
    return json.dumps(
        {
            "version": "1.0",
            "pre_tokenizer": {"type": "Whitespace"},
            "model": {"type": "WordLevel", "vocab": ids, "unk_token": "[UNK]"},
            "post_processor": {
                "type": "TemplateProcessing",
                "single": single,
                "pair": [*single, {"Sequence": {"id": "B", "type_id": 1}}],
                "special_tokens": {each["id"]: each for each in special},
            },
        }
    )


def texts_of(*texts, matrix=False, name="text"):
    """InferInputs of texts, (batch_size,) or (batch_size, 1)."""
    array = np.array([text.encode() for text in texts], np.object_)
    return inputs_of({name: array[:, None] if matrix else array})


def ids_of(ids=IDS, mask=MASK):
    """InferInputs of token ids."""
    return inputs_of({"input_ids": ids} | ({} if mask is None else {"attention_mask": mask}))


def names_of(response):
    """Names of the outputs that a response has."""
    return [output.name for output in response.get_response().outputs]
