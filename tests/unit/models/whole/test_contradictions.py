"""Checkpoints whose tensors and config.json contradict each other are refused, or warned of."""

import json
import re
import shutil

import numpy as np
import pytest
from changed_checkpoint import changed
from golden import GOLDEN
from safetensors.numpy import load_file, save_file

from polyhead_models.checkpoint.checkpoint import Checkpoint, CheckpointError
from polyhead_models.checkpoint.whole_tensors import find_whole, surplus_layers
from polyhead_models.export.whole import export_whole_model

NOT_READ = (
    r"lm_head|pooler|cls\.|mask_token|visual_proj|text_proj|logit_|(vision|text)_model\.head|predictions\.|"
    r"inv_freq|contact_head"
)
"""Tensors that whole models do not have."""


def check(folder):
    find_whole(Checkpoint.open(folder))


def test_nothing_is_written_before_all_tensors_are_checked(tmp_path):
    def cut(tensors):
        return tensors | {"encoder.layer.1.output.LayerNorm.bias": np.zeros(3, np.float32)}

    layers = []
    checkpoint = Checkpoint.open(changed(tmp_path, "bert", cut))
    with pytest.raises(
        CheckpointError,
        match=r"tensor encoder\.layer\.1\.output\.LayerNorm\.bias in model\.safetensors has shape "
        r"\(3,\); expected \(hidden_size=64\) by config\.json",
    ):
        export_whole_model(checkpoint, "m", tmp_path / "models", on_layer=layers.append)
    assert not layers
    assert not [*(tmp_path / "models" / "m").iterdir()]


@pytest.mark.parametrize(
    "family",
    ["bert", "dinov2", "gpt2", "granite-multipliers", "opt-projected", "phi3", "siglip"],
)
def test_no_axis_of_a_tensor_may_be_longer(family, tmp_path):
    folder = shutil.copytree(GOLDEN / family, tmp_path / family)
    tensors = load_file(folder / "model.safetensors")
    for name in (name for name in tensors if not re.search(rf"\.0\.|{NOT_READ}", name)):
        for axis in range(tensors[name].ndim):
            longer = np.insert(tensors[name], 0, 0.0, axis)
            save_file(tensors | {name: longer}, folder / "model.safetensors")
            with pytest.raises(CheckpointError, match=rf"tensor {re.escape(name)} .*has shape"):
                check(folder)


@pytest.mark.parametrize("family", ["esm", "llama", "siglip", "t5", "vit"])
def test_no_tensor_may_be_missing_or_of_integers(family, tmp_path):
    folder = shutil.copytree(GOLDEN / family, tmp_path / family)
    tensors = load_file(folder / "model.safetensors")
    for name in (name for name in tensors if not re.search(NOT_READ, name)):
        others = {other: array for other, array in tensors.items() if other != name}
        save_file(others, folder / "model.safetensors")
        with pytest.raises(CheckpointError, match="holds no tensor"):
            check(folder)
        integers = np.zeros(tensors[name].shape, np.int8)
        save_file(others | {name: integers}, folder / "model.safetensors")
        with pytest.raises(CheckpointError, match=f"tensor {re.escape(name)} is stored as I8"):
            check(folder)


@pytest.mark.parametrize(
    ("family", "settings", "expected"),
    [
        ("bert", {"vocab_size": 41}, r"word_embeddings\.weight .*\(40, 64\).*vocab_size=41"),
        ("bert", {"max_position_embeddings": 31}, r"position_embeddings\.weight .*positions=31"),
        ("bert", {"type_vocab_size": 3}, r"token_type_embeddings\.weight .*types=3"),
        ("bert", {"intermediate_size": 96}, r"intermediate\.dense\.weight .*maps=96"),
        ("gpt2", {"n_positions": 4}, r"wpe\.weight .*positions=4"),
        ("gpt2", {"n_inner": 4}, r"c_fc\.weight .*maps=4"),
        ("phi3", {"intermediate_size": 4}, r"gate_up_proj\.weight .*maps=8"),
        ("t5", {"d_ff": 4}, r"wi\.weight .*maps=4"),
        ("whisper", {"decoder_ffn_dim": 4}, r"decoder\.layers\.0\.fc1\.weight .*maps=4"),
        ("whisper", {"num_mel_bins": 4}, r"conv1\.weight .*num_mel_bins=4"),
        ("whisper", {"max_source_positions": 9}, r"encoder\.embed_positions.* .*positions=9"),
        ("vit", {"num_channels": 1}, r"projection\.weight .*num_channels=1"),
        ("vit", {"patch_size": 4}, r"projection\.weight .*patch_height=4"),
        ("dinov2", {"mlp_ratio": 3}, r"mlp\.\S+ .*maps="),
        ("dinov2_with_registers", {"num_register_tokens": 2}, r"register_tokens .*positions=2"),
        ("albert", {"embedding_size": 7}, r"word_embeddings\.weight .*embedding_size=7"),
        ("roberta", {"pad_token_id": 70}, "the first token has row 71; check max_position_emb"),
    ],
)
def test_sizes_of_the_configuration_are_those_of_the_tensors(tmp_path, family, settings, expected):
    with pytest.raises(CheckpointError, match=expected):
        check(changed(tmp_path, family, **settings))


@pytest.mark.parametrize(
    ("family", "settings", "expected"),
    [
        ("llama", {"mlp_bias": True}, r"holds no tensor layers\.0\.mlp\.up_proj\.bias"),
        ("granite-multipliers", {"mlp_bias": False}, r"layers\.0\.mlp\.up_proj\.bias, and a model"),
        ("starcoder2", {"use_bias": False}, r"self_attn\.q_proj\.bias; a model"),
        ("modernbert", {"norm_bias": True}, r"holds no tensor model\.embeddings\.norm\.bias"),
        ("modernbert", {"mlp_bias": True}, r"holds no tensor model\.layers\.0\.mlp\.Wi\.bias"),
        ("falcon", {"bias": False}, r"self_attention\.\S+\.bias; a model"),
        ("opt", {"layer_norm_elementwise_affine": False}, r"norm\.weight, and a model"),
    ],
)
def test_biases_are_those_of_the_configuration(tmp_path, family, settings, expected):
    with pytest.raises(CheckpointError, match=expected):
        check(changed(tmp_path, family, **settings))


@pytest.mark.parametrize(
    ("family", "module"),
    [("cohere", "layers.0.input_layernorm"), ("mpt", "blocks.0.norm_1"), ("t5", "shared")],
)
def test_biases_that_transformers_ignores(tmp_path, family, module):
    width = json.loads((GOLDEN / family / "config.json").read_text())
    bias = np.zeros(width.get("hidden_size", width.get("d_model")), np.float32)
    folder = changed(tmp_path, family, lambda tensors: tensors | {f"{module}.bias": bias})
    if family == "t5":  # no module of whole models has such a bias, so it changes nothing
        check(folder)
    else:
        with pytest.raises(CheckpointError, match=rf"{re.escape(module)}\.bias, and a model"):
            check(folder)


@pytest.mark.parametrize("other", ["weight_scale", "lora_A.weight", "weight.absmax"])
def test_a_changed_feed_forward_network_is_refused(tmp_path, other):
    name = f"layers.1.mlp.down_proj.{other}"
    folder = changed(tmp_path, "llama", lambda t: t | {name: np.zeros(3, np.float32)})
    with pytest.raises(CheckpointError, match=rf"{re.escape(name)}, so .* is not a plain weight"):
        check(folder)


def test_numbers_that_are_not_finite_are_refused(tmp_path):
    def spoil(tensors):
        tensors["layers.0.mlp.down_proj.weight"][0, 0] = np.nan
        return tensors

    checkpoint = Checkpoint.open(changed(tmp_path, "llama", spoil))
    with pytest.raises(CheckpointError, match=r"down_proj\.weight holds values that are infinite"):
        export_whole_model(checkpoint, "m", tmp_path / "models")


def test_layers_that_the_configuration_does_not_count_are_left_out_with_a_warning(tmp_path):
    assert surplus_layers(Checkpoint.open(GOLDEN / "bert")) == ""
    checkpoint = Checkpoint.open(changed(tmp_path, "bert", num_hidden_layers=1))
    assert "also holds encoder layer 1, and config.json counts 1" in surplus_layers(checkpoint)
    (stack,) = export_whole_model(checkpoint, "m", tmp_path / "models").config.stacks
    assert len(stack.layers) == 1


@pytest.mark.parametrize("family", ["albert", "llama-sharded-bf16", "siglip", "t5", "whisper"])
def test_all_layers_of_the_recordings_are_counted(family):
    assert surplus_layers(Checkpoint.open(GOLDEN / family)) == ""


def test_a_layer_that_is_missing_is_named(tmp_path):
    with pytest.raises(CheckpointError, match=r"no tensor layers\.2\.self_attn\.q_proj\.weight"):
        check(changed(tmp_path, "llama", num_hidden_layers=3))


@pytest.mark.parametrize("family", ["albert", "bert"])
def test_more_layers_than_any_model_has_are_refused_at_once(family, tmp_path):
    with pytest.raises(CheckpointError, match="counts 2000000000 layers; expected at most 10000"):
        check(changed(tmp_path, family, num_hidden_layers=2_000_000_000, inner_group_num=1))


def test_a_decoder_without_its_first_layer_is_not_an_encoder_alone(tmp_path):
    def cut(tensors):
        return {name: a for name, a in tensors.items() if "decoder.block.0" not in name}

    with pytest.raises(CheckpointError, match=r"holds no tensor decoder\.block\.0"):
        check(changed(tmp_path, "t5", cut))
