"""Every recorded whole model, exported and run segment by segment."""

import numpy as np
import pytest
from changed_checkpoint import changed
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


def inputs_of(stack, recorded, prefix):
    """Return a stack's recorded input, split into sequences of their valid lengths."""
    if stack.input != "token_ids":
        array = recorded[stack.input]
        return [array[index : index + 1] for index in range(len(array))]
    if prefix == "decoder_":
        ids = recorded["decoder_input_ids"]
        lengths = [ids.shape[1]] * len(ids)
    else:
        ids, lengths = recorded["input_ids"], recorded["attention_mask"].sum(-1)
    return [sequence for _, sequence in sequences(lengths, ids.astype(np.int64))]


def assert_as_recorded(states, recorded, index, prefix):
    """Compare hidden states that enter layers, and the output, with recorded ones."""
    *hidden, _, output = states
    for layer, state in enumerate(hidden):
        expected = recorded[f"{prefix}hidden_states.{layer}"]
        assert_close(state, expected[index : index + 1, : state.shape[1]])
    name = "last_hidden_state" if prefix == "decoder_" else f"{prefix}last_hidden_state"
    assert_close(output, recorded[name][index : index + 1, : output.shape[1]])


@pytest.mark.parametrize("family", RECORDED)
def test_as_recorded(family, tmp_path):
    recorded = dict(np.load(GOLDEN / family / "whole.npz"))
    model = SegmentedModel.export(GOLDEN / family, tmp_path)
    memories = {}
    for stack in model.config.stacks:
        prefix = f"{stack.name}_" if len(model.config.stacks) > 1 else ""
        for index, sequence in enumerate(inputs_of(stack, recorded, prefix)):
            states = model.forward(stack, sequence, memory=memories.get(index))
            assert_as_recorded(states, recorded, index, prefix)
            if stack.name == "encoder":
                memories[index] = states[-1]


@pytest.mark.parametrize("family", ["dinov2", "dinov2_with_registers"])
@pytest.mark.parametrize("image_size", [28, [14, 56]])
def test_images_of_another_size(family, image_size, tmp_path):
    """16 positions are a square for transformers, whatever image config.json states."""
    recorded = dict(np.load(GOLDEN / family / "whole.npz"))
    folder = changed(tmp_path, family, image_size=image_size)
    model = SegmentedModel.export(folder, tmp_path / "models")
    (stack,) = model.config.stacks
    assert (stack.input_shape, stack.max_length) == ((3, 0, 0), 0)
    *_, output = model.forward(stack, recorded["other_pixel_values"])
    assert_close(output, recorded["other_last_hidden_state"])


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
