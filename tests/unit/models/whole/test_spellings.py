"""Names of tensors and keys that other versions and classes of transformers write."""

import json

import numpy as np
import pytest
from changed_checkpoint import changed
from golden import GOLDEN
from safetensors.numpy import load_file
from whole import SegmentedModel

from polyhead_models.checkpoint.checkpoint import Checkpoint, CheckpointError
from polyhead_models.export.whole import export_whole_model


def renaming(**parts):
    """Make a change of names; dots are written as two underscores."""

    def change(tensors):
        renamed = {}
        for name, array in tensors.items():
            for old, new in parts.items():
                name = name.replace(old.replace("__", "."), new)  # noqa: PLW2901 - one after the other
            renamed[name] = array
        return renamed

    return change


def weights_of(folder, repository):
    exported = export_whole_model(Checkpoint.open(folder), "m", repository)
    return (exported.folder / "model.onnx.data").read_bytes()


def assert_same_weights(family, folder, tmp_path):
    expected = weights_of(GOLDEN / family, tmp_path / "recorded")
    assert weights_of(folder, tmp_path / "models") == expected


VIT = renaming(
    encoder__layer__="layers.",
    attention__attention__query="attention.q_proj",
    attention__attention__key="attention.k_proj",
    attention__attention__value="attention.v_proj",
    attention__output__dense="attention.o_proj",
    intermediate__dense="mlp.fc1",
    output__dense="mlp.fc2",
)


def with_separate_gates(tensors):
    """Name DINOv2's tensors as transformers 5 does inside, with gate and up in their own."""
    names = renaming(
        attention__attention__query="attention.q_proj",
        attention__attention__key="attention.k_proj",
        attention__attention__value="attention.v_proj",
        attention__output__dense="attention.o_proj",
        mlp__weights_out="mlp.down_proj",
    )
    separate = {}
    for name, array in names(tensors).items():
        if "weights_in" in name:
            gate, up = np.split(array, 2)
            separate[name.replace("weights_in", "gate_proj")] = gate.copy()
            separate[name.replace("weights_in", "up_proj")] = up.copy()
        else:
            separate[name] = array
    return separate


@pytest.mark.parametrize(
    ("family", "change"),
    [
        ("vit", VIT),
        ("bert", renaming(LayerNorm__weight="LayerNorm.gamma", LayerNorm__bias="LayerNorm.beta")),
        ("bart", renaming(shared="encoder.embed_tokens")),
        ("bart", renaming(shared="decoder.embed_tokens")),
        ("t5", renaming(shared="lm_head")),
    ],
    ids=["vit", "gamma-and-beta", "words-of-encoder", "words-of-decoder", "words-of-last-layer"],
)
def test_other_names(tmp_path, family, change):
    folder = changed(tmp_path, family, change)
    renamed = {*load_file(folder / "model.safetensors")}
    assert renamed != {*load_file(GOLDEN / family / "model.safetensors")}
    assert_same_weights(family, folder, tmp_path)


def test_gate_and_up_in_one_tensor_or_two(tmp_path):
    folder = changed(tmp_path, "dinov2", with_separate_gates)
    pixels = np.random.default_rng(0).standard_normal((1, 3, 30, 30)).astype(np.float32)
    models = [
        SegmentedModel.export(each, tmp_path / each.name) for each in (folder, GOLDEN / "dinov2")
    ]
    separate, fused = (model.forward(model.config.stacks[0], pixels)[-1] for model in models)
    np.testing.assert_allclose(separate, fused, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("family", ["clip", "siglip"])
@pytest.mark.parametrize("stack", ["text", "vision"])
@pytest.mark.parametrize("prefix", ["", "{}_model."])
def test_a_tower_saved_alone(tmp_path, family, stack, prefix):
    whole = f"{stack}_model."

    def change(tensors):
        own = {name: array for name, array in tensors.items() if name.startswith(whole)}
        return {name.replace(whole, prefix.format(stack)): array for name, array in own.items()}

    config = json.loads((GOLDEN / family / "config.json").read_text())[f"{stack}_config"]
    folder = changed(tmp_path, family, change, **config | {"model_type": f"{family}_{stack}_model"})
    alone = SegmentedModel.export(folder, tmp_path / "models").config
    both = SegmentedModel.export(GOLDEN / family, tmp_path / "recorded").config
    (tower,) = alone.stacks
    expected = both.stack(stack)
    assert (tower.name, tower.max_length, tower.input_shape, tower.vocab_size) == (
        expected.name,
        expected.max_length,
        expected.input_shape,
        expected.vocab_size,
    )


def test_each_stack_has_its_own_words_if_they_differ(tmp_path):
    def change(tensors):
        return tensors | {"decoder.embed_tokens.weight": 2 * tensors["shared.weight"]}

    model = SegmentedModel.export(changed(tmp_path, "t5", change), tmp_path / "models")
    ids = np.array([[3, 4, 5]])
    encoder, decoder = (model.run(stack.embed, token_ids=ids) for stack in model.config.stacks)
    np.testing.assert_array_equal(decoder, 2 * encoder)


def test_an_untied_last_layer_is_not_taken_for_words(tmp_path):
    folder = changed(tmp_path, "bart", renaming(shared="lm_head"), tie_word_embeddings=False)
    with pytest.raises(CheckpointError, match=r"holds no tensor .*encoder\.embed_tokens"):
        export_whole_model(Checkpoint.open(folder), "m", tmp_path / "models")


def test_an_encoder_saved_alone(tmp_path):
    def change(tensors):
        return {name: array for name, array in tensors.items() if "decoder" not in name}

    folder = changed(tmp_path, "whisper", change)
    (stack,) = SegmentedModel.export(folder, tmp_path / "models").config.stacks
    assert (stack.name, stack.input, stack.input_shape) == ("encoder", "input_features", (8, 20))


def test_a_decoder_saved_alone(tmp_path):
    def change(tensors):
        return {name: array for name, array in tensors.items() if "encoder." not in name}

    folder = changed(tmp_path, "bart", change)
    (stack,) = SegmentedModel.export(folder, tmp_path / "models").config.stacks
    assert [sublayer.kind for sublayer in stack.layers[0]] == ["self", "cross"]


@pytest.mark.parametrize(("family", "is_gated"), [("t5", True), ("t5-v1_1", False)])
def test_both_forms_of_t5s_network_need_their_tensors(tmp_path, family, is_gated):
    folder = changed(tmp_path, family, is_gated_act=is_gated)
    with pytest.raises(CheckpointError, match=r"holds no tensor .*DenseReluDense\.wi"):
        export_whole_model(Checkpoint.open(folder), "m", tmp_path / "models")


def test_positions_that_do_not_fit_the_image_are_named(tmp_path):
    folder = changed(tmp_path, "vit", image_size=64)
    with pytest.raises(CheckpointError, match=r"position_embeddings in .* has shape \(1, 17, 64\)"):
        export_whole_model(Checkpoint.open(folder), "m", tmp_path / "models")


@pytest.mark.parametrize("family", ["dinov2", "dinov2_with_registers"])
def test_positions_of_which_transformers_makes_another_grid_are_refused(tmp_path, family):
    folder = changed(tmp_path, family, image_size=28, patch_size=[7, 28])
    with pytest.raises(CheckpointError, match=r"patch_size is \[7, 28\]; .*only square patches"):
        export_whole_model(Checkpoint.open(folder), "m", tmp_path / "models")


@pytest.mark.parametrize("size", ["32", [32], [32, 0], 2.5, None, True])
def test_sizes_of_images_are_checked(tmp_path, size):
    folder = changed(tmp_path, "vit", image_size=size)
    with pytest.raises(CheckpointError, match=r"image_size is .*; expected a number"):
        export_whole_model(Checkpoint.open(folder), "m", tmp_path / "models")
