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
_ONE_LAYER = _SMALL | {"num_hidden_layers": 1}
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
    "electra": Case(  # as ELECTRA-small, whose words are narrower than its layers
        model=hf.ElectraModel,
        config=hf.ElectraConfig(**_SMALL, embedding_size=12, max_position_embeddings=16),
    ),
    "esm-absolute": Case(  # as ESM-1b
        model=hf.EsmModel,
        config=hf.EsmConfig(
            **_ONE_LAYER,
            max_position_embeddings=16,
            mask_token_id=3,
            position_embedding_type="absolute",
            emb_layer_norm_before=True,
            token_dropout=True,
        ),
    ),
    "modernbert-biases": Case(
        model=hf.ModernBertModel,
        config=hf.ModernBertConfig(
            **_SMALL,
            max_position_embeddings=16,
            cls_token_id=1,
            sep_token_id=2,
            attention_bias=True,
            mlp_bias=True,
            norm_bias=True,
        ),
    ),
    "mbart": Case(
        model=hf.MBartModel,
        config=hf.MBartConfig(
            vocab_size=40,
            d_model=16,
            encoder_layers=1,
            decoder_layers=1,
            encoder_attention_heads=2,
            decoder_attention_heads=2,
            encoder_ffn_dim=8,
            decoder_ffn_dim=12,
            max_position_embeddings=16,
            pad_token_id=0,
            scale_embedding=True,
        ),
    ),
    "deit": Case(
        model=hf.DeiTModel,
        config=hf.DeiTConfig(
            hidden_size=16,
            intermediate_size=8,
            num_hidden_layers=1,
            num_attention_heads=2,
            image_size=(12, 8),
            patch_size=4,
        ),
    ),
}
