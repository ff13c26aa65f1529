"""Every recorded attention module of every family, imported and computed again."""

import json
import shutil

import numpy as np
import pytest
from golden import GOLDEN, recorded_modules
from safetensors.numpy import load_file, save_file

from polyhead_models.checkpoint.checkpoint import Checkpoint, CheckpointError, load_checkpoint
from polyhead_models.checkpoint.families import FAMILIES
from polyhead_models.config import AttentionConfig
from polyhead_models.reference.attention import attend

RECORDED = recorded_modules()
SAME_TABLES = {  # imported by a recorded family's tables, and equal to it in transformers
    **dict.fromkeys(["xlm-roberta", "camembert", "electra"], "bert"),
    "deit": "vit",
    "ministral": "mistral",
    "mt5": "t5",
    "mbart": "bart",
    **dict.fromkeys(["clip_text_model", "clip_vision_model"], "clip"),
    **dict.fromkeys(["siglip_text_model", "siglip_vision_model"], "siglip"),
}


@pytest.mark.parametrize("recorded", RECORDED, ids=str)
def test_as_recorded(recorded, assert_attends_as):
    block = recorded.load()
    attended = attend(
        block,
        recorded.query,
        recorded.key,
        attn_mask=recorded.attn_mask,
        positions=recorded.positions,
    )
    assert_attends_as(attended, recorded.output, recorded.attn_weights)
    settings = json.loads((recorded.folder / "config.json").read_text())
    assert block.provenance.family == settings["model_type"]


@pytest.mark.parametrize("recorded", RECORDED, ids=str)
def test_blocks_apply_causality_and_windows_themselves(recorded):
    """Without a mask, each query sees the keys that it sees in some recorded sequence."""
    _, attn_weights = attend(recorded.load(), recorded.query, recorded.key)
    visible, expected = ((w > 0).any(axis=(0, 1)) for w in (attn_weights, recorded.attn_weights))
    np.testing.assert_array_equal(visible, expected)


@pytest.mark.parametrize(
    "folder", sorted({recorded.folder for recorded in RECORDED}), ids=lambda f: f.name
)
def test_every_recorded_module_is_listed(folder):
    checkpoint = Checkpoint.open(folder)
    listed = [
        {checkpoint.label(location, layer) for layer in range(checkpoint.num_layers(location))}
        for location in checkpoint.locations()
    ]
    recorded = [recorded for recorded in RECORDED if recorded.folder == folder]
    assert sum(map(len, listed)) == len(recorded)


def test_every_family_is_recorded():
    recorded = {
        json.loads((folder / "config.json").read_text())["model_type"]
        for folder in {recorded.folder for recorded in RECORDED}
    }
    assert recorded | {*SAME_TABLES} == {*FAMILIES}
    assert {*SAME_TABLES.values()} <= recorded


# --- published checkpoints: the same tensors, saved by other versions and classes


def renamed(tmp_path, family, rename, **settings):
    """Copy a recorded checkpoint with renamed tensors and additional keys in config.json."""
    folder = tmp_path / family
    shutil.copytree(GOLDEN / family, folder)
    tensors = load_file(folder / "model.safetensors")
    save_file(
        {rename(name): array for name, array in tensors.items()}, folder / "model.safetensors"
    )
    config = json.loads((folder / "config.json").read_text()) | settings
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def assert_same(family, folder):
    for recorded in (recorded for recorded in RECORDED if recorded.family == family):
        location = {"kind": recorded.kind, "stack": recorded.stack}
        block, expected = (
            load_checkpoint(f, recorded.layer, **location) for f in (folder, recorded.folder)
        )
        assert block.weights_sha256() == expected.weights_sha256()
        assert block.config == expected.config


@pytest.mark.parametrize(
    ("family", "prefix"),
    [
        ("gpt2", "transformer."),
        ("vit", "vit."),
        ("bart", "model."),
        ("llama", "model."),
        ("mistral", "model."),
        ("gemma2", "model."),
        ("qwen3", "model."),
        ("t5", "transformer."),
    ],
)
def test_prefixes_of_published_checkpoints(tmp_path, family, prefix):
    assert_same(family, renamed(tmp_path, family, lambda name: f"{prefix}{name}"))


@pytest.mark.parametrize("family", ["gpt_neox", "opt", "whisper", "modernbert", "phi3", "qwen2"])
def test_without_a_prefix(tmp_path, family):
    def bare(name):
        return name.removeprefix("gpt_neox.").removeprefix("model.")

    assert_same(family, renamed(tmp_path, family, bare))


def test_vits_newer_names(tmp_path):
    newer = {
        "encoder.layer.": "vit.layers.",
        "attention.attention.query": "attention.q_proj",
        "attention.attention.key": "attention.k_proj",
        "attention.attention.value": "attention.v_proj",
        "attention.output.dense": "attention.o_proj",
    }

    def rename(name):
        for old, new in newer.items():
            name = name.replace(old, new)
        return name

    folder = renamed(tmp_path, "vit", rename)
    assert "vit.layers.0.attention.q_proj.weight" in load_file(folder / "model.safetensors")
    for layer in range(2):
        block, expected = (load_checkpoint(f, layer) for f in (folder, GOLDEN / "vit"))
        assert block.weights_sha256() == expected.weights_sha256()


@pytest.mark.parametrize(
    "names",
    [
        ["esm.rotary_embeddings.inv_freq"],
        ["esm.encoder.layer.*.attention.self.rotary_embeddings.inv_freq"],
        [f"encoder.layer.{n}.attention.self.rotary_embeddings.inv_freq" for n in range(12)],
    ],
    ids=["of-the-model", "with-an-asterisk", "of-each-layer"],
)
def test_esms_stored_frequencies(tmp_path, names):
    folder = renamed(tmp_path, "esm", lambda name: name)
    tensors = load_file(folder / "model.safetensors")
    (recorded,) = (name for name in tensors if name.endswith("inv_freq"))
    rounded = tensors.pop(recorded).astype(np.float16)
    for layer, name in enumerate(names):
        tensors[name] = rounded / np.float16(layer + 1)
    save_file(tensors, folder / "model.safetensors")
    for layer in range(2):
        rotary = load_checkpoint(folder, layer).config.rotary
        np.testing.assert_array_equal(rotary.inverse_frequencies(), rounded)
    assert not load_checkpoint(GOLDEN / "esm", 0).config.rotary.frequencies


def test_other_families_compute_their_frequencies(tmp_path):
    folder = renamed(tmp_path, "llama", lambda name: name)
    tensors = load_file(folder / "model.safetensors")
    tensors["model.rotary_emb.inv_freq"] = np.ones(8, np.float32)
    save_file(tensors, folder / "model.safetensors")
    assert_same("llama", folder)


def test_albert_groups_share_their_weights():
    shas = [load_checkpoint(GOLDEN / "albert", layer).weights_sha256() for layer in range(6)]
    assert shas[:2] == shas[2:4]
    assert len({*shas}) == 4
    assert load_checkpoint(GOLDEN / "albert", 3).provenance.layer == (
        "encoder.albert_layer_groups.0.albert_layers.1.attention"
    )
    with pytest.raises(CheckpointError, match="the layers 0 to 5"):
        load_checkpoint(GOLDEN / "albert", 6)


def test_gpt2s_mask_buffers_are_not_biases(tmp_path):
    folder = renamed(tmp_path, "gpt2", lambda name: name)
    tensors = load_file(folder / "model.safetensors")
    tensors["h.0.attn.bias"] = np.tril(np.ones((1, 1, 8, 8), np.float32))
    tensors["h.0.attn.masked_bias"] = np.float32([-1e4])
    save_file(tensors, folder / "model.safetensors")
    assert_same("gpt2", folder)


def test_an_encoder_saved_without_its_decoder(tmp_path):
    folder = renamed(tmp_path, "t5", lambda name: name)
    tensors = load_file(folder / "model.safetensors")
    kept = {name: array for name, array in tensors.items() if not name.startswith("decoder.")}
    save_file(kept, folder / "model.safetensors")
    saved = Checkpoint.open(folder).saved_locations()
    assert [(location.stack, location.kind) for location in saved] == [("encoder", "self")]


def test_clips_older_settings_have_priority(tmp_path):
    folder = renamed(
        tmp_path, "clip", str, text_config={"num_hidden_layers": 7}, vision_config_dict=None
    )
    config = json.loads((folder / "config.json").read_text())
    recorded = json.loads((GOLDEN / "clip" / "config.json").read_text())
    config["text_config_dict"] = recorded["text_config"]
    (folder / "config.json").write_text(json.dumps(config))
    assert_same("clip", folder)


def test_the_default_stack_is_the_first():
    for family, module in (("t5", "encoder.block.0"), ("clip", "text_model")):
        assert load_checkpoint(GOLDEN / family, 0).provenance.layer.startswith(module)
    cross = load_checkpoint(GOLDEN / "whisper", 1, kind="cross")
    assert cross.provenance.layer == "decoder.layers.1.encoder_attn"
    assert cross.config == AttentionConfig(embed_dim=32, num_heads=2)
