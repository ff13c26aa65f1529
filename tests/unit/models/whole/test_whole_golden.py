"""Every recorded whole model, exported and run segment by segment."""

import numpy as np
import pytest
from golden import GOLDEN
from minilm import MINILM, needs_minilm
from whole import SegmentedModel

from polyhead_models.checkpoint.checkpoint import Checkpoint
from polyhead_models.checkpoint.families import FAMILIES

MAX_ERROR = 3e-5
"""Largest error as a fraction of the largest magnitude."""
RECORDED = [
    file.parent.name
    for file in sorted(GOLDEN.glob("*/whole.npz"))
    if FAMILIES[Checkpoint.open(file.parent).model_type].whole
]


def sequences(lengths, array):
    """Yield each sequence's valid part."""
    for index, length in enumerate(lengths):
        yield index, array[index : index + 1, :length]


def assert_close(actual, expected):
    assert actual.shape == expected.shape
    assert np.abs(actual - expected).max() < MAX_ERROR * np.abs(expected).max()


def assert_as_recorded(states, recorded, index, length, prefix=""):
    """Compare hidden states that enter layers, and the output, with recorded ones."""
    *hidden, _, output = states
    for layer, state in enumerate(hidden):
        if f"{prefix}hidden_states.{layer}" in recorded:
            expected = recorded[f"{prefix}hidden_states.{layer}"][index : index + 1, :length]
            assert_close(state, expected)
    name = f"{prefix}last_hidden_state"
    expected = recorded[name if name in recorded else "last_hidden_state"]
    assert_close(output, expected[index : index + 1, :length])


@pytest.mark.parametrize("family", RECORDED)
def test_as_recorded(family, tmp_path):
    recorded = np.load(GOLDEN / family / "whole.npz")
    model = SegmentedModel.export(GOLDEN / family, tmp_path)
    first, *others = model.config.stacks
    if first.input == "pixel_values":
        states = model.forward(first, recorded["pixel_values"])
        for index in range(len(recorded["pixel_values"])):
            parts = [state[index : index + 1] for state in states]
            assert_as_recorded(parts, recorded, index, parts[0].shape[1])
        return
    lengths = recorded["attention_mask"].sum(-1)
    for index, token_ids in sequences(lengths, recorded["input_ids"].astype(np.int64)):
        states = model.forward(first, token_ids)
        assert_as_recorded(states, recorded, index, lengths[index], "encoder_" if others else "")
        for decoder in others:
            decoder_ids = recorded["decoder_input_ids"][index : index + 1].astype(np.int64)
            states = model.forward(decoder, decoder_ids, memory=states[-1])
            assert_as_recorded(states, recorded, index, decoder_ids.shape[1], "decoder_")


@needs_minilm
def test_minilm(tmp_path):
    recorded = np.load(GOLDEN / "minilm_whole.npz")
    model = SegmentedModel.export(MINILM, tmp_path)
    lengths = recorded["attention_mask"].sum(-1)
    for index, token_ids in sequences(lengths, recorded["input_ids"].astype(np.int64)):
        states = model.forward(model.config.stacks[0], token_ids)
        for layer in (0, 3, 6):
            expected = recorded[f"hidden_states.{layer}"][index : index + 1, : lengths[index]]
            assert_close(states[layer], expected)
