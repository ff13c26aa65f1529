"""Forms of families that differ from their recordings by make_golden.py outside of attention."""

import transformers as hf
from golden_case import V4_ROPE, Case

_SMALL = {
    "vocab_size": 40,
    "hidden_size": 32,
    "intermediate_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_FALCON = {
    key: value
    for key, value in _SMALL.items()
    if key not in {"intermediate_size", "num_hidden_layers", "pad_token_id"}
} | {"num_hidden_layers": 1, "ffn_hidden_size": 16}

FORMS = {
    "gpt_neox-sequential": Case(
        model=hf.GPTNeoXModel,
        config=hf.GPTNeoXConfig(**_SMALL, max_position_embeddings=32, use_parallel_residual=False),
    ),
    "opt-projected": Case(  # as OPT-350m
        model=hf.OPTForCausalLM,
        config=hf.OPTConfig(
            **_SMALL,
            ffn_dim=16,
            max_position_embeddings=16,
            word_embed_proj_dim=12,
            do_layer_norm_before=False,
        ),
    ),
    "opt-plain-norms": Case(
        model=hf.OPTForCausalLM,
        config=hf.OPTConfig(
            **_SMALL,
            ffn_dim=16,
            max_position_embeddings=16,
            layer_norm_elementwise_affine=False,
            _remove_final_layer_norm=True,
        ),
    ),
    "bloom-normed-residual": Case(
        model=hf.BloomForCausalLM,
        config=hf.BloomConfig(
            vocab_size=40,
            hidden_size=32,
            n_layer=2,
            n_head=2,
            bos_token_id=1,
            eos_token_id=2,
            apply_residual_connection_post_layernorm=True,
        ),
    ),
    "falcon-one-norm": Case(  # as Falcon-7B
        model=hf.FalconModel, config=hf.FalconConfig(**_FALCON), published=V4_ROPE
    ),
    "falcon-sequential": Case(
        model=hf.FalconModel,
        config=hf.FalconConfig(**_FALCON, parallel_attn=False, multi_query=False),
        published=V4_ROPE,
    ),
    "granite-multipliers": Case(
        model=hf.GraniteModel,
        config=hf.GraniteConfig(
            **_SMALL,
            num_key_value_heads=1,
            embedding_multiplier=6.0,
            residual_multiplier=0.22,
            attention_multiplier=0.125,
            mlp_bias=True,
        ),
        published=V4_ROPE,
    ),
    "stablelm-parallel": Case(
        model=hf.StableLmModel,
        config=hf.StableLmConfig(**_SMALL, num_key_value_heads=1, use_parallel_residual=True),
        published=V4_ROPE,
    ),
}
