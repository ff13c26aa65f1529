"""The changes of config.json that compare_whole.py makes: sizes, every key, and keys at random."""

import json
import random
import re
from functools import reduce

from configurations import ABSENT, KEYS, TOGETHER
from configurations import FAMILIES as FAMILIES_OF_BLOCKS
from make_golden import FOLDER
from transformers.activations import ACT2FN

LENGTHS = (13, 1, 2, 7)
"""Tokens of the sequences, which are longer than the windows."""
FAMILIES = {
    **{family: case for family, case in FAMILIES_OF_BLOCKS.items() if family != "gpt_oss"},
    **dict.fromkeys(["clip_text_model", "clip_vision_model"], "clip"),
    **dict.fromkeys(["siglip_text_model", "siglip_vision_model"], "siglip"),
}
"""Families by ``model_type``, with the recording whose config.json is changed."""
_NUM_RANDOM = 16
"""Cases of each family with two or three keys at random."""
_MORE_KEYS = {"electra": {"embedding_size": 48}}
"""Keys that a recording lacks, because it is that of another family."""
_ROTARY_KEYS = {"head_dim", "layer_types", "rope_scaling", "rope_parameters"}
"""Keys that are tried in families with rotary embeddings, also where the recording lacks them."""
_FLAG = [True, False, None]

_SIZES = {
    ("hidden_size", "n_embd", "d_model", "dim"): [32, 48, 80, 96],
    ("num_attention_heads", "n_head", "n_heads", "num_heads"): [1, 2, 8],
    ("encoder_attention_heads",): [1, 8],
    ("decoder_attention_heads",): [1, 8],
    ("num_hidden_layers", "n_layer", "n_layers", "num_layers"): [1, 3, 5],
    ("num_decoder_layers",): [1, 3],
    ("encoder_layers",): [1, 3],
    ("decoder_layers",): [1, 3],
    ("intermediate_size", "n_inner", "d_ff", "hidden_dim", "ffn_dim", "ffn_hidden_size"): [1, 33],
    ("encoder_ffn_dim",): [33],
    ("decoder_ffn_dim",): [7],
    ("vocab_size",): [41, 301],
    ("max_position_embeddings", "n_positions", "max_seq_len", "max_target_positions"): [17, 90],
    ("embedding_size",): [7, 32, 64],
    ("num_key_value_heads",): [1, 4],
    ("head_dim", "d_kv"): [6, 32, 40],
}
"""Values of sizes, by the names that families give them."""
_WITHOUT_MEANING = re.compile(
    "model_type|architectures|_config$|dtype|transformers|drop|init|cache|classif|summary|suppress|mask_(time|"
    "feature)|apply_spec|begin|forced|label|sparse|stage|out_|reshape|deterministic|projection|pdrop"
)
"""Keys that cannot change what is compared, or whose default is a large model."""
_EPS = [0.03]
_ACTIVATIONS = sorted(ACT2FN)
_ACTIVATION_KEYS = ("hidden_act", "activation_function", "activation", "hidden_activation")
_WHOLE_KEYS = {
    **dict.fromkeys(["layer_norm_eps", "layer_norm_epsilon", "rms_norm_eps", "norm_eps"], _EPS),
    "norm_epsilon": _EPS,
    "tie_word_embeddings": _FLAG,
    "pad_token_id": [0, 1, 5, None],
    "bos_token_id": [7],
    "eos_token_id": [7, None],
    "type_vocab_size": [1, 2, 5],
    # feed-forward networks
    "mlp_bias": _FLAG,
    "n_inner": [17, None],
    "use_swiglu_ffn": _FLAG,
    "mlp_ratio": [1, 3],
    "is_gated_act": _FLAG,
    "dense_act_fn": ["silu", "gelu", "gelu_new"],
    "feed_forward_proj": ["relu", "gelu", "silu", "gated-gelu", "gated-silu", "gated-relu"],
    "expansion_ratio": [2, 3],
    # norms and residual steps
    "do_layer_norm_before": _FLAG,
    "_remove_final_layer_norm": _FLAG,
    "layer_norm_elementwise_affine": _FLAG,
    "apply_residual_connection_post_layernorm": _FLAG,
    "use_parallel_residual": _FLAG,
    "parallel_attn": _FLAG,
    "num_ln_in_parallel_attn": [1, 2, None],
    "norm_bias": _FLAG,
    "norm_type": ["layernorm"],
    "normalize_before": _FLAG,
    "normalize_embedding": _FLAG,
    "add_final_layer_norm": _FLAG,
    "emb_layer_norm_before": _FLAG,
    "layerscale_value": [0.1],
    "apply_layernorm": _FLAG,
    # embeddings, and factors
    "word_embed_proj_dim": [12, 64],
    "scale_embedding": _FLAG,
    "sinusoidal_pos_embds": _FLAG,
    "static_position_embeddings": _FLAG,
    "learned_pos_emb": _FLAG,
    "token_dropout": _FLAG,
    "mask_token_id": [4, 38, None],
    "embedding_multiplier": [12.0],
    "residual_multiplier": [0.22],
    "logits_scaling": [8.0],
    "final_logit_softcapping": [3.0, None],
    "scale_decoder_outputs": _FLAG,
    "embedding_fraction": [0.5],
    "no_bias": _FLAG,
    "hidden_dropout_prob": [0.5],
    "chunk_size_feed_forward": [0, 3],
    # images and sound
    "image_size": [28, [28, 14]],
    "patch_size": [7, 14],
    "num_channels": [1, 3],
    "num_register_tokens": [0, 1, 3],
    "use_mask_token": _FLAG,
    "pooler_output_size": [7],
    "vision_use_head": _FLAG,
    "num_mel_bins": [5],
    "max_source_positions": [9, 17],
    "use_weighted_layer_sum": _FLAG,
}
"""Keys whose meaning lies outside of the attention blocks, and the values that they are given."""

_DECODER = {"is_decoder": True}
_FORMS = {
    "add_cross_attention": [
        _DECODER | {"add_cross_attention": True},
        _DECODER | {"add_cross_attention": True, "num_hidden_layers": 1},
    ],
    "word_embed_proj_dim": [
        {"word_embed_proj_dim": width, "do_layer_norm_before": is_before} | more
        for width in (12, 64)
        for is_before in (True, False)
        for more in ({}, {"_remove_final_layer_norm": True}, {"enable_bias": False})
    ],
    "multi_query": [
        {
            "new_decoder_architecture": is_new,
            "multi_query": is_shared,
            "parallel_attn": is_parallel,
            "bias": has_bias,
            "num_ln_in_parallel_attn": norms,
        }
        for is_new, norms in ((False, ABSENT), (False, 2), (True, 1), (True, 2), (True, ABSENT))
        for is_shared in (True, False)
        for is_parallel in (True, False)
        for has_bias in (True, False)
    ],
    "token_dropout": [
        {
            "position_embedding_type": positions,
            "token_dropout": drops,
            "emb_layer_norm_before": is_normed,
            "mask_token_id": mask,
        }
        for positions in ("absolute", "rotary", ABSENT)
        for drops, is_normed in ((True, False), (False, True), (True, True))
        for mask in (6, ABSENT)
    ],
    "feed_forward_proj": [
        {"dense_act_fn": ABSENT, "is_gated_act": ABSENT, "feed_forward_proj": network}
        for network in ("relu", "gelu", "gelu_new", "gated-gelu", "gated-silu", "gated-relu")
    ],
    "num_decoder_layers": [
        {"num_layers": 1, "num_decoder_layers": 3},
        {"num_layers": 3, "num_decoder_layers": 1},
        {"num_layers": 3, "num_decoder_layers": ABSENT},
    ],
    "decoder_layers": [
        {"encoder_layers": 1, "decoder_layers": 3},
        {"encoder_layers": 3, "decoder_layers": 1},
        {"encoder_attention_heads": 8, "decoder_attention_heads": 1},
    ],
    "use_parallel_residual": [
        {"use_parallel_residual": is_parallel, "tie_word_embeddings": is_tied} | more
        for is_parallel in (True, False)
        for is_tied in (True, False)
        for more in ({}, {"use_qkv_bias": True}, {"attention_bias": False})
    ],
    "num_hidden_groups": [
        {"num_hidden_layers": 4, "num_hidden_groups": groups, "inner_group_num": inner}
        for groups in (1, 2, 3, 4)
        for inner in (1, 2)
    ],
    "num_register_tokens": [{"num_register_tokens": 2, "use_swiglu_ffn": False}],
    "layerscale_value": [
        {"image_size": [14, 56], "patch_size": 7},
        {"image_size": [56, 14], "patch_size": 7},
        {"image_size": 28, "patch_size": [7, 28]},
    ],
    "norm_bias": [
        {"norm_bias": a, "mlp_bias": b, "attention_bias": c, "num_hidden_layers": 4}
        for a in (True, False)
        for b in (True, False)
        for c in (True, False)
    ],
    "vision_config": [
        {"text_config.hidden_size": 32, "vision_config.hidden_size": 96},
        {"text_config.hidden_size": 48, "vision_config.num_hidden_layers": 3},
    ],
}
"""Forms of models that several keys describe, by one key that such a file has."""

EXPLAINED = {
    r"only square patches": "transformers takes a column of patches for a square, but in images of "
    "one size",
    r"the activation is '(prelu|xielu)'": "it has trained parameters",
    r"not a multiple of the number of heads": "transformers 5 rounds the width of a head down in "
    "some families and fails in others",
    r"rotary dim is [01];": "a head is so narrow that nothing of it is rotated, or half a pair",
}
"""Why polyhead refuses what transformers runs: by patterns of the printed lines."""


def base_of(model_type):
    """Return the config.json that a family's changes start from."""
    base = json.loads((FOLDER / FAMILIES[model_type] / "config.json").read_text())
    for stack in ("text", "vision"):
        if model_type.endswith(f"_{stack}_model"):
            base = base[f"{stack}_config"]
    return base | {"model_type": model_type} | _MORE_KEYS.get(model_type, {})


def changes_of(base):
    """Yield the changes of a config.json; the first one changes nothing."""
    yield {}
    yield from ({key: ABSENT} for key in base if not _WITHOUT_MEANING.search(key))
    prefixes = [key for key in ("text_config.", "vision_config.") if key[:-1] in base] or [""]
    single = [change for prefix in prefixes for change in _single(base, prefix)]
    yield from single
    yield from (form for key, forms in _FORMS.items() if key in base for form in forms)
    chosen = random.Random(base["model_type"])
    pool = single + [{k: v} for k, vs in KEYS.items() if k in base for v in vs] + TOGETHER
    for _ in range(_NUM_RANDOM):
        yield reduce(lambda a, b: a | b, chosen.sample(pool, chosen.choice([2, 2, 3])))


def _single(base, prefix):
    """Yield changes of one key each, of the top level or of a nested object."""
    settings = base[prefix[:-1]] if prefix else base
    chosen = random.Random(f"{prefix}{base['model_type']}")
    is_rotary = any(key.startswith(("rope", "rotary")) for key in settings)
    known = settings.keys() | (_ROTARY_KEYS if is_rotary else set())
    for names, values in _SIZES.items():
        key = next((name for name in names if name in known), "")
        yield from ({prefix + key: value} for value in values if key)
    for key in (name for name in _ACTIVATION_KEYS if name in settings):
        is_first = base["model_type"] in {"bert", "llama", "gpt2"}
        names = _ACTIVATIONS if is_first else chosen.sample(_ACTIVATIONS, 3)
        yield from ({prefix + key: name} for name in names)
    for key, values in _WHOLE_KEYS.items():
        yield from ({prefix + key: value} for value in values if key in settings)
    for key, values in KEYS.items():
        if key in known and not any(key in names for names in _SIZES):
            some = chosen.sample(values, min(3, len(values)))
            yield from ({prefix + key: value} for value in some)
