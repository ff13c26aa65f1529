"""How config.json becomes an AttentionConfig; no tensors are read."""

import json
import math

import numpy as np
import pytest
from golden import GOLDEN

from polyhead_models.checkpoint.checkpoint import Checkpoint, CheckpointError
from polyhead_models.checkpoint.families import FAMILIES
from polyhead_models.rotary import Rotary

WIDTHS = {
    "hidden_size": 48,
    "num_attention_heads": 6,
    "num_hidden_layers": 40,
    "max_position_embeddings": 64,
}
LLAMA = {"model_type": "llama", **WIDTHS}


@pytest.fixture
def checkpoint_of(tmp_path, write_safetensors):
    """Return a function that opens a checkpoint; a value "omitted" removes the key."""

    def read(settings, **changed):
        write_safetensors(tmp_path / "model.safetensors", {"x": np.zeros(1, np.float32)})
        values = {key: value for key, value in (settings | changed).items() if value != "omitted"}
        (tmp_path / "config.json").write_text(json.dumps(values))
        return Checkpoint.open(tmp_path)

    return read


@pytest.fixture
def config_of(checkpoint_of):
    """Return a function that reads one layer's config."""

    def read(settings, layer=0, **changed):
        checkpoint = checkpoint_of(settings, **changed)
        return checkpoint.config(checkpoint.locations(kind="self")[0], layer)

    return read


@pytest.fixture
def refusal_of(config_of):
    def read(settings, **changed):
        with pytest.raises(CheckpointError) as caught:
            config_of(settings, **changed)
        return str(caught.value)

    return read


# --- heads


@pytest.mark.parametrize(
    ("model_type", "kv_heads", "head_dim"),
    [
        ("llama", 6, 8),
        ("phi3", 6, 8),
        ("granite", 6, 8),
        ("cohere", 6, 8),
        ("phi", 6, 8),
    ],
)
def test_defaults_of_missing_keys(config_of, model_type, kv_heads, head_dim):
    for given in ("omitted", None):
        config = config_of(WIDTHS, model_type=model_type, num_key_value_heads=given, head_dim=given)
        assert (config.num_kv_heads, config.head_dim) == (kv_heads, head_dim)


@pytest.mark.parametrize(
    ("model_type", "kv_heads", "head_dim"),
    [
        ("mistral", 8, 8),
        ("qwen2", 32, 8),
        ("qwen3", 32, 128),
        ("gemma", 16, 256),
        ("gemma2", 4, 256),
        ("gemma3_text", 4, 256),
        ("gpt_oss", 8, 64),
        ("starcoder2", 2, 8),
        ("stablelm", 32, 8),
    ],
)
def test_defaults_of_families(config_of, model_type, kv_heads, head_dim):
    config = config_of(WIDTHS, model_type=model_type, num_attention_heads=32, hidden_size=256)
    assert (config.num_kv_heads, config.head_dim) == (kv_heads, head_dim)


def test_t5s_defaults(config_of):
    config = config_of({"model_type": "t5"})
    assert (config.embed_dim, config.num_heads, config.head_dim) == (512, 8, 64)
    assert (config.relative_buckets, config.relative_max_distance) == (32, 128)
    assert config.scale == 1.0
    assert not config.is_causal


def test_mt5s_defaults(checkpoint_of):
    checkpoint = checkpoint_of({"model_type": "mt5"})
    locations = checkpoint.locations(kind="self")
    assert [checkpoint.num_layers(location) for location in locations] == [8, 8]
    config = checkpoint.config(locations[0], 7)
    assert (config.embed_dim, config.num_heads, config.head_dim) == (512, 6, 64)


def test_heads_have_their_share_rounded_down(config_of):
    config = config_of(LLAMA, model_type="mistral", hidden_size=50, num_key_value_heads=6)
    assert (config.embed_dim, config.head_dim, config.rotary.dim) == (50, 8, 8)


@pytest.mark.parametrize("model_type", ["vit", "deit"])
def test_vits_heads_may_be_wider_than_their_share(config_of, model_type):
    assert config_of(sizes_of(model_type), head_dim=16).head_dim == 16


def test_clips_defaults(config_of):
    config = config_of({"model_type": "clip", "text_config": {"hidden_act": "gelu"}})
    assert (config.embed_dim, config.num_heads, config.is_causal) == (512, 8, True)
    config = config_of({"model_type": "clip_vision_model"})
    assert (config.embed_dim, config.num_heads, config.is_causal) == (768, 12, False)


def test_clips_older_object_replaces_the_newer(config_of):
    both = {"text_config": {"hidden_size": 64}, "text_config_dict": {"num_attention_heads": 2}}
    config = config_of({"model_type": "clip", **both})
    assert (config.embed_dim, config.num_heads) == (512, 2)


@pytest.mark.parametrize(
    ("changed", "kv_heads"),
    [
        ({}, 1),
        ({"multi_query": False}, 6),
        ({"new_decoder_architecture": True, "num_kv_heads": 2}, 2),
        ({"new_decoder_architecture": True}, 6),
    ],
)
def test_falcons_heads(config_of, changed, kv_heads):
    config = config_of(WIDTHS, model_type="falcon", **changed)
    assert config.num_kv_heads == kv_heads


def test_blooms_older_keys(config_of):
    config = config_of(
        {"model_type": "bloom", "n_embed": 48, "num_attention_heads": 6, "n_layer": 1}
    )
    assert (config.embed_dim, config.num_heads, config.has_alibi) == (48, 6, True)


# --- scales


@pytest.mark.parametrize(
    ("changed", "layer", "scale"),
    [
        ({}, 3, 1 / math.sqrt(8)),
        ({"scale_attn_weights": False}, 3, 1.0),
        ({"scale_attn_by_inverse_layer_idx": True}, 3, 1 / math.sqrt(8) / 4),
        ({"scale_attn_by_inverse_layer_idx": True, "scale_attn_weights": False}, 1, 0.5),
    ],
)
def test_gpt2s_scale(config_of, changed, layer, scale):
    gpt2 = {"model_type": "gpt2", "n_embd": 48, "n_head": 6, "n_layer": 5}
    assert config_of(gpt2, layer, **changed).scale == pytest.approx(scale)


def test_gemma2s_scale_and_cap(config_of):
    gemma2 = {"model_type": "gemma2", **WIDTHS, "num_attention_heads": 8}
    config = config_of(gemma2)
    assert (config.scale, config.softcap) == (1 / 16, 50.0)
    config = config_of(gemma2, query_pre_attn_scalar=4, attn_logit_softcapping=None)
    assert (config.scale, config.softcap) == (0.5, 0.0)


def test_gemma3_has_no_cap(config_of):
    gemma3 = {"model_type": "gemma3_text", **WIDTHS, "num_attention_heads": 8}
    assert config_of(gemma3, attn_logit_softcapping=50.0).softcap == 0.0


# --- windows


def windows(config_of, settings, num_layers, **changed):
    return [config_of(settings, layer, **changed).sliding_window for layer in range(num_layers)]


def test_mistrals_window(config_of):
    mistral = {**LLAMA, "model_type": "mistral", "num_key_value_heads": 2}
    assert windows(config_of, mistral, 2) == [4096, 4096]
    assert windows(config_of, mistral, 2, sliding_window=None) == [0, 0]
    assert windows(config_of, mistral, 2, sliding_window=7) == [7, 7]
    types = ["full_attention", "sliding_attention"]
    assert windows(config_of, mistral, 2, sliding_window=7, layer_types=types) == [0, 7]


@pytest.mark.parametrize("model_type", ["phi3", "starcoder2"])
def test_these_families_have_a_window_only_if_stated(config_of, model_type):
    settings = {**LLAMA, "model_type": model_type}
    assert windows(config_of, settings, 1) == [0]
    assert windows(config_of, settings, 2, sliding_window=7) == [7, 7]


@pytest.mark.parametrize("model_type", ["qwen2", "qwen3"])
def test_qwens_windows(config_of, model_type):
    qwen = {**LLAMA, "model_type": model_type, "num_key_value_heads": 2, "sliding_window": 9}
    assert windows(config_of, qwen, 30) == [0] * 30
    assert windows(config_of, qwen, 30, use_sliding_window=True) == [0] * 28 + [9, 9]
    used = {"use_sliding_window": True, "max_window_layers": 1}
    assert windows(config_of, qwen, 3, **used) == [0, 9, 9]
    types = ["sliding_attention", "full_attention", "sliding_attention"]
    assert windows(config_of, qwen, 3, **used, layer_types=types) == [9, 0, 9]
    assert windows(config_of, qwen, 3, layer_types=types) == [0, 0, 0]


@pytest.mark.parametrize(("model_type", "window"), [("gemma2", 4096), ("gpt_oss", 128)])
def test_every_second_layer_has_a_window(config_of, model_type, window):
    settings = {**LLAMA, "model_type": model_type, "num_key_value_heads": 2}
    assert windows(config_of, settings, 4) == [window, 0, window, 0]
    types = ["full_attention", "sliding_attention"]
    assert windows(config_of, settings, 2, layer_types=types, sliding_window=5) == [0, 5]


def test_modernberts_windows_and_thetas(config_of):
    bert = {**LLAMA, "model_type": "modernbert"}
    assert windows(config_of, bert, 4) == [0, 65, 65, 0]
    changed = {"global_attn_every_n_layers": 2, "local_attention": 9, "local_rope_theta": 77}
    assert windows(config_of, bert, 4, **changed) == [0, 5, 0, 5]
    assert config_of(bert, 0, **changed).rotary.theta == 160000.0
    assert config_of(bert, 1, **changed).rotary.theta == 77.0
    assert windows(config_of, bert, 2, local_attention=9, sliding_window=7) == [0, 8]
    assert not config_of(bert).is_causal


def test_gemma3_scales_only_full_layers(config_of):
    gemma3 = {**LLAMA, "model_type": "gemma3_text", "num_key_value_heads": 2, "head_dim": 8}
    gemma3["rope_scaling"] = {"rope_type": "linear", "factor": 8.0}
    assert windows(config_of, gemma3, 7) == [4096] * 5 + [0, 4096]
    assert config_of(gemma3, 0).rotary == Rotary(dim=8, theta=10000.0)
    assert config_of(gemma3, 5).rotary == Rotary(dim=8, theta=1e6, scaling="linear", factor=8.0)


# --- causality

BLOCK_SIZES = {
    **WIDTHS,
    "dim": 48,
    "rotary_dim": 4,
    "n_embd": 48,
    "n_head": 6,
    "n_layer": 2,
    "d_model": 48,
    "n_heads": 6,
    "n_layers": 2,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "encoder_attention_heads": 6,
    "decoder_attention_heads": 6,
}
DECODERS = ["llama", "mistral", "qwen2", "qwen3", "phi", "phi3", "granite", "cohere", "stablelm"]
DECODERS += ["starcoder2", "gemma", "gemma2", "gemma3_text", "gpt_oss"]
DECODERS += ["gpt2", "gptj", "gpt_neox", "opt", "falcon"]


def sizes_of(model_type):
    """Return the sizes of a small model; keys that name the same size are not both there."""
    aliases = FAMILIES[model_type].aliases
    sizes = {key: size for key, size in BLOCK_SIZES.items() if key not in aliases}
    return {"model_type": model_type, **sizes}


@pytest.mark.parametrize("model_type", DECODERS)
def test_decoders_are_bidirectional_by_config(config_of, model_type):
    settings = sizes_of(model_type)
    assert config_of(settings).is_causal
    assert config_of(settings, is_causal=True).is_causal
    assert not config_of(settings, is_causal=False).is_causal


@pytest.mark.parametrize("model_type", [name for name in DECODERS if name != "gemma3_text"])
def test_a_bidirectional_mask_of_other_code_is_refused(refusal_of, model_type):
    expected = "use_bidirectional_attention is True; transformers' code of this family ignores"
    assert expected in refusal_of(sizes_of(model_type), use_bidirectional_attention=True)


@pytest.mark.parametrize("model_type", ["bloom", "mpt", "clip_text_model"])
def test_these_families_are_causal_only(config_of, refusal_of, model_type):
    assert config_of(sizes_of(model_type)).is_causal
    assert "supported as causal only" in refusal_of(sizes_of(model_type), is_causal=False)


@pytest.mark.parametrize("model_type", ["mistral", "phi3", "starcoder2", "gemma2", "gpt_oss"])
def test_windows_of_bidirectional_decoders_reach_one_key_farther(config_of, model_type):
    settings = sizes_of(model_type) | {"sliding_window": 7}
    assert config_of(settings).sliding_window == 7
    assert config_of(settings, is_causal=False).sliding_window == 8
    qwen = sizes_of("qwen2") | {"use_sliding_window": True, "max_window_layers": 0}
    assert config_of(qwen, sliding_window=7, is_causal=False).sliding_window == 8
    assert config_of(sizes_of("mistral"), sliding_window=None, is_causal=False).sliding_window == 0


@pytest.mark.parametrize(("stated", "window"), [(6, 4), (7, 4), (8, 5), (9, 5), (512, 257)])
def test_embedding_gemmas_window_reaches_half_to_either_side(config_of, stated, window):
    config = config_of(
        sizes_of("gemma3_text"), use_bidirectional_attention=True, sliding_window=stated
    )
    assert (config.is_causal, config.sliding_window) == (False, window)


@pytest.mark.parametrize("model_type", ["bert", "roberta", "xlm-roberta", "camembert", "electra"])
def test_a_bert_is_causal_as_a_decoder(config_of, refusal_of, model_type):
    settings = sizes_of(model_type)
    assert not config_of(settings).is_causal
    assert not config_of(settings, is_causal=False).is_causal
    assert config_of(settings, is_decoder=True).is_causal
    assert not config_of(settings, is_decoder=True, is_causal=False).is_causal
    assert "without causality only" in refusal_of(settings, is_causal=True)


@pytest.mark.parametrize("model_type", ["bart", "mbart", "whisper", "t5", "mt5"])
def test_only_a_decoders_self_attention_is_causal(checkpoint_of, model_type):
    checkpoint = checkpoint_of(sizes_of(model_type))
    locations = {(loc.stack, loc.kind): loc for loc in checkpoint.locations()}
    causal = {key: checkpoint.config(location, 0).is_causal for key, location in locations.items()}
    assert causal == {("encoder", "self"): 0, ("decoder", "self"): 1, ("decoder", "cross"): 0}


@pytest.mark.parametrize("model_type", ["bart", "mbart", "whisper"])
def test_a_decoder_of_two_stacks_is_bidirectional_if_the_file_says_so(checkpoint_of, model_type):
    checkpoint = checkpoint_of(sizes_of(model_type), is_causal=False)
    assert not any(checkpoint.config(loc, 0).is_causal for loc in checkpoint.locations())


@pytest.mark.parametrize("model_type", ["t5", "mt5"])
def test_a_t5_decoder_is_causal_only_because_its_buckets_are(checkpoint_of, model_type):
    checkpoint = checkpoint_of(sizes_of(model_type), is_causal=False)
    for location in checkpoint.locations():
        if (location.stack, location.kind) == ("decoder", "self"):
            with pytest.raises(CheckpointError, match="supported as causal only"):
                checkpoint.config(location, 0)
        else:
            assert not checkpoint.config(location, 0).is_causal


# --- other names of keys


@pytest.mark.parametrize(
    "model_type", [name for name, family in FAMILIES.items() if family.aliases]
)
def test_aliases_are_read_and_must_agree(checkpoint_of, model_type):
    for alias, key in FAMILIES[model_type].aliases.items():
        settings = sizes_of(model_type)
        size = settings.pop(key, 6)
        renamed = checkpoint_of({**settings, alias: size})
        assert renamed.settings.values[key] == size
        renamed.config(renamed.locations()[0], 0)
        checkpoint_of({**settings, alias: size, key: size})
        with pytest.raises(CheckpointError, match=f"{alias} is 3; it is another name of {key}"):
            checkpoint_of({**settings, key: size, alias: 3})


# --- rotary embeddings


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({}, {}),
        ({"rope_theta": 500000}, {"theta": 500000.0}),
        ({"rope_theta": 5.0, "rope_scaling": None}, {"theta": 5.0}),
        ({"rope_parameters": {"rope_theta": 7.0, "rope_type": "default"}}, {"theta": 7.0}),
        ({"rope_theta": 5.0, "rope_parameters": {"rope_theta": 7.0}}, {"theta": 7.0}),
        ({"rope_theta": None}, {}),
        ({"partial_rotary_factor": 0.5}, {}),
        ({"rope_parameters": {"partial_rotary_factor": 0.25}}, {}),
        (
            {
                "rope_scaling": {"type": "linear", "factor": 2},
                "rope_parameters": {"rope_theta": 7.0},
            },
            {"scaling": "linear", "factor": 2.0},
        ),
        (
            {
                "rope_scaling": {
                    "rope_type": "llama3",
                    "factor": 32.0,
                    "low_freq_factor": 1.0,
                    "high_freq_factor": 4.0,
                    "original_max_position_embeddings": 8192,
                }
            },
            {"scaling": "llama3", "factor": 32.0, "original_max_positions": 8192},
        ),
        (
            {
                "rope_scaling": {
                    "type": "yarn",
                    "factor": 4.0,
                    "original_max_position_embeddings": 16,
                }
            },
            {
                "scaling": "yarn",
                "factor": 4.0,
                "original_max_positions": 16,
                "attention_factor": 0.1 * math.log(4) + 1,
            },
        ),
        (
            {
                "rope_scaling": {
                    "rope_type": "yarn",
                    "factor": None,
                    "mscale": 0.5,
                    "mscale_all_dim": 1.0,
                    "beta_fast": None,
                    "truncate": False,
                },
                "original_max_position_embeddings": 16,
            },
            {
                "scaling": "yarn",
                "factor": 4.0,
                "original_max_positions": 16,
                "attention_factor": (0.05 * math.log(4) + 1) / (0.1 * math.log(4) + 1),
                "is_truncated": False,
            },
        ),
        (
            # the length is that of the model, whatever the scaling states
            {
                "rope_scaling": {
                    "type": "dynamic",
                    "factor": 2.0,
                    "original_max_position_embeddings": 16,
                }
            },
            {"scaling": "dynamic", "factor": 2.0, "original_max_positions": 64},
        ),
        (
            {"rope_scaling": {"type": "yarn", "factor": 4.0, "attention_factor": 1.5}},
            {
                "scaling": "yarn",
                "factor": 4.0,
                "original_max_positions": 64,
                "attention_factor": 1.5,
            },
        ),
    ],
)
def test_rotary(config_of, changed, expected):
    assert config_of(LLAMA, **changed).rotary == Rotary(**{"dim": 8, **expected})


@pytest.mark.parametrize("scaling_type", ["longrope", "su", "yarn"])
def test_phi3s_longrope(config_of, scaling_type):
    factors = {"short_factor": [1, 1.5, 2, 3], "long_factor": [2, 3, 4, 5]}
    phi3 = {**LLAMA, "model_type": "phi3", "max_position_embeddings": 16384}
    for changed, original in (({}, 4096), ({"original_max_position_embeddings": 1024}, 1024)):
        rotary = config_of(phi3, rope_scaling={"type": scaling_type, **factors}, **changed).rotary
        assert rotary == Rotary(
            dim=8,
            scaling="longrope",
            factor=16384 / original,
            original_max_positions=original,
            short_factors=(1.0, 1.5, 2.0, 3.0),
            long_factors=(2.0, 3.0, 4.0, 5.0),
        )


@pytest.mark.parametrize(
    ("model_type", "factor", "dim"), [("phi", 0.25, 2), ("stablelm", 0.5, 4), ("phi3", 0.75, 6)]
)
def test_these_families_rotate_a_part_of_each_head(config_of, model_type, factor, dim):
    settings = {**LLAMA, "model_type": model_type, "num_key_value_heads": 6}
    for changed in (
        {"partial_rotary_factor": factor},
        {"rope_parameters": {"partial_rotary_factor": factor}},
    ):
        assert config_of(settings, **changed).rotary.dim == dim


@pytest.mark.parametrize(
    "model_type",
    [
        "mistral",
        "qwen2",
        "qwen3",
        "granite",
        "cohere",
        "starcoder2",
        "gemma",
        "gemma2",
        "gemma3_text",
        "falcon",
        "modernbert",
        "gpt_oss",
    ],
)
def test_these_families_ignore_partial_rotary_factor(config_of, model_type):
    settings = {**LLAMA, "model_type": model_type, "num_key_value_heads": 2, "head_dim": 8}
    plain = {"rope_scaling": {"rope_type": "default"}}
    for changed in (
        {"partial_rotary_factor": 0.5, **plain},
        {"rope_scaling": {"rope_type": "default", "partial_rotary_factor": 0.5}},
    ):
        assert config_of(settings, **changed).rotary.dim == 8


def test_gptj_ignores_base_and_scaling(config_of):
    gptj = {"model_type": "gptj", "n_embd": 48, "n_head": 6, "n_layer": 1, "rotary_dim": 4}
    scaling = {"rope_type": "linear", "factor": 4.0, "rope_theta": 5.0}
    changed = {"rope_theta": 500.0, "rope_scaling": scaling, "rope_parameters": scaling}
    assert config_of(gptj, **changed).rotary == Rotary(dim=4, is_interleaved=True)


def test_gpt_neox_rotates_a_part_of_the_stated_head_dim(config_of):
    config = config_of(LLAMA, model_type="gpt_neox", head_dim=4, rotary_pct=0.5)
    assert (config.head_dim, config.rotary.dim) == (8, 2)


@pytest.mark.parametrize(
    ("model_type", "key"), [("gpt_neox", "rotary_pct"), ("phi3", "partial_rotary_factor")]
)
def test_an_odd_part_of_a_head_is_rounded_up(config_of, model_type, key):
    """The frequencies stay those of 3 dimensions: theta ** -0 and theta ** -(2 / 3)."""
    rotary = config_of(LLAMA, model_type=model_type, num_key_value_heads=6, **{key: 0.4}).rotary
    assert rotary.dim == 4
    np.testing.assert_allclose(rotary.inverse_frequencies(), [1, 10000 ** (-2 / 3)], rtol=1e-6)


def test_scaling_of_layer_types(config_of):
    """Gemma 3 scales full layers only, and does not know the older key "type"."""
    gemma3 = {**LLAMA, "model_type": "gemma3_text", "num_key_value_heads": 2, "head_dim": 8}
    bert = {**LLAMA, "model_type": "modernbert"}
    linear = {"rope_type": "linear", "factor": 8.0}

    def factors(settings, layers, **changed):
        return [config_of(settings, layer, **changed).rotary.factor for layer in layers]

    full, sliding = 5, 0
    assert factors(gemma3, (sliding, full), rope_scaling=linear) == [1, 8]
    assert factors(gemma3, (sliding, full), rope_scaling={"type": "linear", "factor": 8}) == [1, 1]
    assert factors(gemma3, (sliding, full), rope_parameters=linear) == [1, 1]
    both = {"full_attention": {"type": "linear", "factor": 2.0}, "sliding_attention": linear}
    assert factors(gemma3, (sliding, full), rope_parameters=both) == [8, 2]
    full, sliding = 0, 1
    assert factors(bert, (sliding, full), rope_scaling=linear) == [8, 8]
    assert factors(bert, (sliding, full), rope_scaling={"type": "linear", "factor": 8}) == [1, 1]
    assert factors(bert, (sliding, full), rope_parameters=both) == [8, 2]


@pytest.mark.parametrize(("model_type", "full"), [("gemma3_text", 5), ("modernbert", 0)])
def test_yarn_of_a_layer_type(config_of, model_type, full):
    """transformers reads "truncate" beside the layer types only, and the length within one only."""
    settings = {**LLAMA, "model_type": model_type, "num_key_value_heads": 2, "head_dim": 8}
    yarn = {"rope_type": "yarn", "factor": 4.0, "truncate": False}
    outside = {"original_max_position_embeddings": 16}

    def rotary(**changed):
        found = config_of(settings, full, **changed).rotary
        return found.original_max_positions, found.is_truncated

    assert rotary(rope_parameters={"full_attention": yarn}) == (64, True)
    assert rotary(rope_scaling=yarn) == (64, True)
    assert rotary(rope_parameters={"full_attention": yarn, "truncate": False}) == (64, False)
    assert rotary(rope_parameters={"full_attention": yarn | outside}) == (16, True)
    assert rotary(rope_parameters={"full_attention": yarn}, **outside) == (64, True)


def test_rotary_of_other_families(config_of):
    neox = config_of({**LLAMA, "model_type": "gpt_neox"}, num_attention_heads=3).rotary
    assert neox == Rotary(dim=4)
    neox = config_of(LLAMA, model_type="gpt_neox", rotary_pct=0.5, rotary_emb_base=99).rotary
    assert neox == Rotary(dim=4, theta=99.0)
    gptj = {"model_type": "gptj", "n_embd": 48, "n_head": 6, "n_layer": 1}
    assert config_of(gptj, rotary_dim=4).rotary == Rotary(dim=4, is_interleaved=True)
    assert config_of(gptj, rotary_dim=None).rotary == Rotary(dim=8, is_interleaved=True)
    cohere = config_of(LLAMA, model_type="cohere").rotary
    assert cohere == Rotary(dim=8, theta=500000.0, is_interleaved=True)
    oss = config_of(LLAMA, model_type="gpt_oss", num_key_value_heads=2).rotary
    assert (oss.scaling, oss.factor, oss.is_truncated) == ("yarn", 32.0, False)


# --- refusals


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"rope_scaling": {"type": "ntk", "factor": 2.0}}, "type is 'ntk'; supported are"),
        ({"rope_scaling": {"type": "dynamic"}}, "no rope_scaling.factor; expected a value"),
        ({"rope_scaling": {"rope_type": "mrope"}}, "rope_type is 'mrope'; supported are"),
        ({"rope_scaling": {"type": "linear"}}, "no rope_scaling.factor"),
        ({"rope_scaling": {"type": "linear", "factor": 0}}, "factor is 0"),
        ({"rope_scaling": {"type": "linear", "factor": "2"}}, "factor is '2'; expected float"),
        ({"rope_scaling": {"type": "llama3", "factor": 2.0}}, "no rope_scaling.low_freq_factor"),
        ({"rope_scaling": "linear"}, "rope_scaling is 'linear'; expected dict"),
        ({"rope_scaling": {"type": "longrope", "short_factor": ["a"]}}, "short_factor does not"),
        (
            {"rope_scaling": {"type": "longrope", "short_factor": [1], "long_factor": [1]}},
            "short_factors has 1 entries",
        ),
        ({"rope_theta": 10**400}, "expected float"),
        ({"rope_theta": 1e999}, "theta is inf"),
        ({"rope_theta": True}, "rope_theta is True"),
        (
            {"partial_rotary_factor": 0.5, "rope_scaling": {"type": "linear", "factor": 2.0}},
            "partial_rotary_factor is 0.5; with scaled rotary embeddings",
        ),
        (
            {"rope_parameters": {"full_attention": {"rope_type": "default"}}},
            "this family has one rotary embedding for all layers",
        ),
        ({"is_causal": None}, "is_causal is None; expected bool"),
        ({"use_bidirectional_attention": True}, "replace the key by is_causal: false"),
        ({"num_key_value_heads": 4}, "not a multiple of num_kv_heads"),
        ({"num_key_value_heads": 0}, "num_key_value_heads is 0; it must be at least 1"),
        ({"head_dim": -1}, "head_dim is -1"),
        (
            {"quantization_config": {"quant_method": "bitnet", "quantization_mode": "online"}},
            "quantization_mode is 'online'; the model rounds its weights when it runs",
        ),
    ],
)
def test_refusals(refusal_of, changed, expected):
    message = refusal_of(LLAMA, **changed)
    assert expected in message
    assert "config.json" in message


@pytest.mark.parametrize(
    ("model_type", "changed", "expected"),
    [
        ("bert", {"num_attention_heads": 5}, "not a multiple of the number of heads"),
        ("gemma2", {"use_bidirectional_attention": True}, "applies it only in part"),
        ("phi", {"partial_rotary_factor": 0.4}, "rotary dim is 3; it must be even"),
        ("phi", {"partial_rotary_factor": 2.0}, "2.0 of each head is rotated"),
        ("phi", {"partial_rotary_factor": 1e999}, "inf of each head is rotated"),
        ("gemma2", {"query_pre_attn_scalar": 0}, "query_pre_attn_scalar is 0; it must be above 0"),
        ("gemma2", {"layer_types": ["linear_attention"]}, "supported are full_attention"),
        ("gemma2", {"layer_types": [[]]}, "supported are full_attention"),
        ("gemma2", {"layer_types": 3}, "layer_types is 3; expected list"),
        ("gemma2", {"sliding_window": 0}, "sliding_window is 0"),
        ("qwen3", {"rms_norm_eps": 0}, "rms_norm_eps is 0"),
        (
            "qwen2",
            {"use_sliding_window": 1, "max_window_layers": 0},
            "use_sliding_window is 1; expected bool",
        ),
        ("cohere", {"use_qk_norm": True}, "only False is supported"),
        ("stablelm", {"qk_layernorm": True}, "only False is supported"),
        ("falcon", {"alibi": True}, "only False is supported"),
        ("mpt", {"attn_config": {"clip_qkv": 8}}, "attn_config.clip_qkv is 8; only None"),
        ("mpt", {"attn_config": {"alibi": False}}, "attn_config.alibi is False; only True"),
        ("modernbert", {"global_attn_every_n_layers": 0}, "must be at least 1"),
        ("clip", {"text_config": [1]}, "text_config is [1]; expected dict"),
        ("clip", {"text_config": {"hidden_size": "w"}}, "text_config.hidden_size is 'w'"),
        ("t5", {"num_decoder_layers": "x", "d_kv": 0}, "d_kv is 0"),
    ],
)
def test_refusals_of_families(refusal_of, model_type, changed, expected):
    settings = {**LLAMA, "num_key_value_heads": 2, "model_type": model_type}
    assert expected in refusal_of(settings, **changed)


@pytest.mark.parametrize(
    ("family", "location", "expected"),
    [
        ("bart", {"stack": "encoder", "kind": "cross"}, "no encoder cross attention"),
        ("bart", {"stack": "text"}, "no text attention"),
        ("llama", {"kind": "cross"}, "it has: decoder self"),
        ("clip", {"stack": "encoder"}, "it has: text self, vision self"),
        ("bert", {"kind": "cross"}, "it has: encoder self"),
    ],
)
def test_a_location_that_the_model_lacks_is_refused(family, location, expected):
    with pytest.raises(CheckpointError, match=expected):
        Checkpoint.open(GOLDEN / family).locations(**location)
