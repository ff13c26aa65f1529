"""The cases of compare_configurations.py: families, and values of keys of config.json."""

ABSENT = object()
"""Marks a key to remove."""

FAMILIES = {
    "albert": "albert",
    **dict.fromkeys(["bert", "camembert", "electra", "roberta", "xlm-roberta"], "bert"),
    **dict.fromkeys(["bart", "mbart"], "bart"),
    "bloom": "bloom",
    "clip": "clip",
    "cohere": "cohere",
    "dinov2": "dinov2",
    "dinov2_with_registers": "dinov2_with_registers",
    "distilbert": "distilbert",
    "esm": "esm",
    "falcon": "falcon",
    "gemma": "gemma",
    "gemma2": "gemma2",
    "gemma3_text": "gemma3_text",
    "gpt2": "gpt2",
    "gpt_neox": "gpt_neox",
    "gpt_oss": "gpt_oss",
    "gptj": "gptj",
    "granite": "granite",
    "llama": "llama",
    **dict.fromkeys(["mistral", "ministral"], "mistral"),
    "modernbert": "modernbert",
    "mpnet": "mpnet",
    "mpt": "mpt",
    "opt": "opt",
    "phi": "phi",
    "phi3": "phi3",
    "qwen2": "qwen2",
    "qwen3": "qwen3",
    "siglip": "siglip",
    "stablelm": "stablelm",
    "starcoder2": "starcoder2",
    "t5": "t5",
    "mt5": "t5-v1_1",
    **dict.fromkeys(["vit", "deit"], "vit"),
    "whisper": "whisper",
}
"""Families by ``model_type``, with the recording whose config.json is changed."""

_LINEAR = {"factor": 4.0}
_YARN = {"factor": 4.0, "original_max_position_embeddings": 8}
_LLAMA3 = {
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 2.0,
    "original_max_position_embeddings": 16,
}
_SCALINGS = [
    None,
    {},
    {"type": "linear", **_LINEAR},
    {"rope_type": "linear", **_LINEAR},
    {"type": "default"},
    {"rope_type": "default"},
    {"type": "dynamic", "factor": 2.0},
    {"type": "yarn", **_YARN},
    {"rope_type": "yarn", **_YARN, "mscale": 0.7, "mscale_all_dim": 0.3},
    {"rope_type": "yarn", **_YARN, "attention_factor": 1.3, "beta_fast": 4, "beta_slow": 0.5},
    {"rope_type": "yarn", **_YARN, "truncate": False},
    {"rope_type": "llama3", **_LLAMA3},
    {"rope_type": "llama3", **_LLAMA3, "rope_theta": 500.0},
    {"rope_type": "default", "partial_rotary_factor": 0.5},
    {"rope_type": "proportional", "factor": 2.0},
]
_BOTH = {
    "full_attention": {"rope_type": "linear", "factor": 2.0, "rope_theta": 800.0},
    "sliding_attention": {"rope_type": "default", "rope_theta": 300.0},
}
_FLAG = [True, False, None]

KEYS = {
    # masks
    "is_causal": _FLAG,
    "use_bidirectional_attention": _FLAG,
    "is_decoder": _FLAG,
    "is_encoder_decoder": _FLAG,
    "add_cross_attention": _FLAG,
    "sliding_window": [4, 5, 0, None],
    "use_sliding_window": _FLAG,
    "max_window_layers": [0, 1, 2, None],
    "layer_types": [
        ["sliding_attention", "full_attention"],
        ["full_attention", "sliding_attention"],
        ["full_attention"],
        None,
    ],
    "sliding_window_pattern": [1, 2, 3, None],
    "global_attn_every_n_layers": [1, 2, None],
    "local_attention": [4, 7, None],
    "no_rope_layers": [[0, 1], [1, 0]],
    "attention_chunk_size": [4],
    # sizes
    "head_dim": [8, 32, None],
    "num_key_value_heads": [1, 2, 4, None],
    "num_attention_heads": [2, 8],
    "num_hidden_layers": [1, 3],
    "num_hidden_groups": [1, 3],
    "inner_group_num": [1, 3],
    "hidden_size": [32],
    **{key: [2] for key in ["n_head", "n_heads", "num_heads"]},
    **{key: [1, 3, None] for key in ["n_layer", "n_layers", "num_layers", "num_decoder_layers"]},
    **{key: [32] for key in ["n_embd", "n_embed", "d_model", "dim"]},
    "d_kv": [8, 24],
    "n_inner": [24],
    "kv_channels": [8],
    "num_kv_heads": [1, 2, 4, None],
    **{key: [1, 3] for key in ["encoder_layers", "decoder_layers"]},
    **{key: [2, 8] for key in ["encoder_attention_heads", "decoder_attention_heads"]},
    "multi_query": _FLAG,
    "new_decoder_architecture": _FLAG,
    # biases and norms
    "attention_bias": _FLAG,
    "qkv_bias": _FLAG,
    "use_bias": _FLAG,
    "use_qkv_bias": _FLAG,
    "bias": _FLAG,
    "enable_bias": _FLAG,
    "no_bias": _FLAG,
    "qk_layernorm": _FLAG,
    "use_qk_norm": _FLAG,
    "rms_norm_eps": [0.1, None],
    "layer_norm_eps": [0.1],
    # scores
    "attn_logit_softcapping": [2.0, None],
    "query_pre_attn_scalar": [7, 2.5, None],
    "attention_multiplier": [0.7, None],
    "scale_attn_weights": _FLAG,
    "scale_attn_by_inverse_layer_idx": _FLAG,
    "reorder_and_upcast_attn": _FLAG,
    "scale_attention_softmax_in_fp32": _FLAG,
    "mup_attn_multiplier": [0.3],
    "logit_scale": [0.3],
    "attention_probs_dropout_prob": [0.5],
    "clip_qkv": [0.5],
    # positions
    "position_embedding_type": ["absolute", "relative_key", "relative_key_query", "rope", None],
    "partial_rotary_factor": [0.5, 1.0, None],
    "rotary_pct": [0.5, 1.0],
    "rotary_dim": [4, None],
    "rotary_emb_base": [500],
    "rope_theta": [500.0, 500, None],
    "global_rope_theta": [500.0],
    "local_rope_theta": [500.0],
    "rope_local_base_freq": [500.0],
    "rope_scaling": [*_SCALINGS, _BOTH],
    "rope_parameters": [
        *_SCALINGS,
        _BOTH,
        {"rope_theta": 500.0},
        {"rope_theta": 500.0, "rope_type": "default"},
    ],
    "max_position_embeddings": [16, 64],
    "original_max_position_embeddings": [8],
    "rope_interleaved": _FLAG,
    "alibi": _FLAG,
    "alibi_bias_max": [4],
    "relative_attention_num_buckets": [4, 16],
    "relative_attention_max_distance": [7, 20],
    # elsewhere in published files
    "attn_config.alibi": _FLAG,
    "attn_config.alibi_bias_max": [4],
    "attn_config.clip_qkv": [0.5, None],
    "attn_config.qk_ln": _FLAG,
    "attn_config.softmax_scale": [0.3, None],
    "attn_config.attn_type": ["multiquery_attention", "grouped_query_attention"],
    "attn_config.prefix_lm": _FLAG,
    "attn_config.attn_uses_sequence_id": _FLAG,
    "attn_config.kv_n_heads": [2],
    "attn_config.rope": _FLAG,
    "attn_config.sliding_window_size": [4],
    "text_config.is_causal": _FLAG,
    "vision_config.is_causal": _FLAG,
    "text_config.num_hidden_layers": [2],
    "vision_config.num_attention_heads": [2],
    "text_config_dict": [{"num_attention_heads": 2}, None],
    "architectures": [["LlamaBiModel"], None],
    "attention_type": ["bidirectional", "causal", "original_full", "block_sparse"],
    "causal": _FLAG,
    "is_bidirectional": _FLAG,
    "bidirectional": _FLAG,
}
"""Keys, with dots for nested objects, and the values that they are given."""

_DECODER = {"is_decoder": True}
TOGETHER = [
    {"is_causal": False, "sliding_window": 4},
    {"is_causal": False, "sliding_window": 5, "use_sliding_window": True, "max_window_layers": 1},
    {"is_causal": False, "use_bidirectional_attention": True},
    *({"use_bidirectional_attention": True, "sliding_window": size} for size in (3, 6, 7, 8, 9)),
    {"use_bidirectional_attention": True, "is_causal": False, "sliding_window": 6},
    _DECODER | {"is_causal": False},
    _DECODER | {"is_causal": True},
    _DECODER | {"add_cross_attention": True},
    _DECODER | {"add_cross_attention": True, "is_causal": False},
    {"add_cross_attention": True, "is_causal": False},
    {"partial_rotary_factor": 0.5, "rope_scaling": {"rope_type": "linear", **_LINEAR}},
    {"rope_parameters": _BOTH, "rope_scaling": ABSENT},
    {"rope_parameters": {"rope_type": "linear", **_LINEAR}, "rope_scaling": ABSENT},
    {"rope_parameters": ABSENT, "rope_scaling": ABSENT, "rope_theta": ABSENT},
    {"rope_parameters": _BOTH, "rope_scaling": {"rope_type": "linear", **_LINEAR}},
    {"rope_parameters": _BOTH, "rope_scaling": {"type": "linear", **_LINEAR}},
    {
        "rope_scaling": ABSENT,
        "rope_parameters": {"full_attention": {"type": "linear", **_LINEAR}},
    },
    *(
        {"rope_scaling": ABSENT, "rope_parameters": {"full_attention": scaling} | beside} | outside
        for scaling in (_SCALINGS[10], {"rope_type": "yarn", "factor": 4.0})
        for beside in ({}, {"truncate": False})
        for outside in ({}, {"original_max_position_embeddings": 32})
    ),
    {"head_dim": 32, "partial_rotary_factor": 0.5},
    {"head_dim": 8, "rotary_pct": 0.5},
    {"layer_types": ["sliding_attention", "full_attention"], "sliding_window": 4, "head_dim": 16},
    {"layer_types": ["full_attention", "sliding_attention"], "sliding_window": None},
    {"num_layers": ABSENT, "num_hidden_layers": 3},
    {"n_layer": ABSENT, "num_hidden_layers": 3},
    {"n_layers": ABSENT, "num_hidden_layers": 3},
    {"n_head": ABSENT, "num_attention_heads": 2},
    {"n_heads": ABSENT, "num_attention_heads": 2},
    {"num_heads": ABSENT, "num_attention_heads": 2},
    {"encoder_layers": ABSENT, "num_hidden_layers": 3},
    {"encoder_attention_heads": ABSENT, "num_attention_heads": 2},
    {"n_embd": ABSENT, "hidden_size": 32},
    {"d_model": ABSENT, "hidden_size": 32},
    {"dim": ABSENT, "hidden_size": 32},
    {"d_kv": ABSENT, "head_dim": 8},
    {"sliding_window": 3, "local_attention": ABSENT},
]
"""Keys that mean something together."""

EXPLAINED = {
    r"has no \w+; expected a value": "transformers assumes the sizes of one published model",
    r"is another name of": "transformers takes one of two sizes that contradict each other",
    r"is 'proportional'; supported": "it is the embedding of a family that polyhead does not read",
    r"one rotary embedding for all layers": "transformers ignores such an object here",
    r"with scaled rotary embeddings, this family": "transformers fails",
    r"position_embedding_type is": "transformers 5 ignores it; version 4 computed other positions",
    r"is_causal is (True|None)": "transformers' eager and sdpa implementations differ",
    r"is_causal is False; this attention is supported as causal only": "eager and sdpa differ "
    "(CLIP), transformers fails (MPT), or the position bias has only a causal meaning (BLOOM, T5)",
    r"use_bidirectional_attention is True": "made by code that transformers lacks",
    r"relative_max_distance is": "all far keys share a bucket with near ones",
    r"sliding_window is 0": "no key is left to see",
    r"(qk_layernorm|use_qk_norm) is True": "a norm that the graph does not have",
    r"alibi is True": "eager adds Falcon's bias twice, sdpa once, and both round it to bfloat16",
    r"mpt: attn_config": "a variant that the graph does not have",
}
"""Why polyhead refuses what transformers runs, or differs: by patterns of the printed lines."""


def changes_of(base):
    """Yield the changes of a config.json; the first one changes nothing."""
    yield {}
    yield from ({key: ABSENT} for key in base if key != "model_type")
    for key, values in KEYS.items():
        if "." not in key or key.split(".")[0] in base:
            yield from ({key: value} for value in values)
    yield from TOGETHER
