"""The cases of make_golden.py: a tiny model of each family, and one call of it."""

import transformers as hf
from golden_case import (
    GROUPED,
    LONG,
    LONG_CALL,
    LONGROPE,
    PHI3_LONGROPE,
    REMOVED,
    SINGLE,
    SMALL,
    TOWER,
    V4_LAYERS,
    V4_ROPE,
    Case,
)

CASES = {
    "modernbert": Case(
        model=hf.ModernBertForMaskedLM,
        config=hf.ModernBertConfig(
            **SMALL, local_attention=8, attention_bias=True, cls_token_id=1, sep_token_id=2
        ),
        published={
            "rope_parameters": REMOVED,
            "layer_types": REMOVED,
            "global_attn_every_n_layers": 3,
            "global_rope_theta": 160000.0,
            "local_rope_theta": 10000.0,
        },
        q_seq_len=16,
        is_padded=True,
    ),
    "clip": Case(
        model=hf.CLIPModel,
        config=hf.CLIPConfig(
            text_config=TOWER
            | {"vocab_size": 40, "max_position_embeddings": 16, "eos_token_id": 39},
            vision_config=TOWER | {"num_attention_heads": 8, "image_size": 12, "patch_size": 4},
            projection_dim=16,
        ),
        is_padded=True,
    ),
    "siglip": Case(
        model=hf.SiglipModel,
        config=hf.SiglipConfig(
            text_config=TOWER
            | {
                "vocab_size": 40,
                "max_position_embeddings": 16,
                "bos_token_id": 1,
                "eos_token_id": 2,
            },
            vision_config=TOWER | {"num_attention_heads": 8, "image_size": 14, "patch_size": 4},
        ),
        is_padded=True,
    ),
    "mpnet": Case(
        model=hf.MPNetForMaskedLM,
        config=hf.MPNetConfig(**SMALL | {"pad_token_id": 1}, max_position_embeddings=32),
        q_seq_len=20,
        is_padded=True,
    ),
    "albert": Case(  # six layers: groups 0, 0 and 1, with two layers each
        model=hf.AlbertForMaskedLM,
        config=hf.AlbertConfig(
            **SMALL | {"num_hidden_layers": 3, "hidden_size": 32},
            embedding_size=24,
            num_hidden_groups=2,
            inner_group_num=2,
            max_position_embeddings=16,
        ),
        is_padded=True,
    ),
    "esm": Case(  # as ESM-2
        model=hf.EsmForMaskedLM,
        config=hf.EsmConfig(
            **SMALL | {"pad_token_id": 1},
            mask_token_id=38,
            position_embedding_type="rotary",
            token_dropout=True,
            max_position_embeddings=32,
        ),
        is_padded=True,
    ),
    "dinov2": Case(
        model=hf.Dinov2Model,
        config=hf.Dinov2Config(
            hidden_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            mlp_ratio=1,
            image_size=30,
            patch_size=7,
            use_swiglu_ffn=True,
        ),
    ),
    "dinov2_with_registers": Case(
        model=hf.Dinov2WithRegistersModel,
        config=hf.Dinov2WithRegistersConfig(
            hidden_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            mlp_ratio=1,
            image_size=28,
            patch_size=7,
            num_register_tokens=3,
        ),
    ),
    "opt": Case(
        model=hf.OPTForCausalLM,
        config=hf.OPTConfig(**SMALL, ffn_dim=16, max_position_embeddings=16),
        is_padded=True,
    ),
    "gpt_neox": Case(
        model=hf.GPTNeoXForCausalLM,
        config=hf.GPTNeoXConfig(**SMALL, max_position_embeddings=32),
        published={"rope_parameters": REMOVED, "rotary_pct": 0.25, "rotary_emb_base": 10000},
    ),
    "whisper": Case(
        model=hf.WhisperForConditionalGeneration,
        config=hf.WhisperConfig(
            vocab_size=40,
            d_model=32,
            encoder_layers=2,
            decoder_layers=2,
            encoder_attention_heads=4,
            decoder_attention_heads=2,
            encoder_ffn_dim=16,
            decoder_ffn_dim=16,
            num_mel_bins=8,
            max_source_positions=10,
            max_target_positions=16,
            pad_token_id=0,
            bos_token_id=1,
            eos_token_id=2,
            decoder_start_token_id=1,
        ),
        encoder_seq_len=10,
    ),
    "qwen2": Case(  # layer 0 has full attention, layer 1 a sliding window
        model=hf.Qwen2ForCausalLM,
        config=hf.Qwen2Config(
            **GROUPED, use_sliding_window=True, sliding_window=4, max_window_layers=1
        ),
        published=V4_LAYERS,
        q_seq_len=9,
        is_padded=True,
    ),
    "qwen2-bidirectional": Case(  # as gte-Qwen2
        model=hf.Qwen2Model,
        config=hf.Qwen2Config(
            **GROUPED, use_sliding_window=True, sliding_window=3, max_window_layers=1
        ),
        published=V4_LAYERS | {"is_causal": False},
        q_seq_len=9,
        is_padded=True,
    ),
    "phi3": Case(
        model=hf.Phi3ForCausalLM,
        config=hf.Phi3Config(**GROUPED, sliding_window=5),
        published=V4_ROPE | {"rope_scaling": None},
        q_seq_len=9,
    ),
    "phi3-longrope-short": Case(
        model=hf.Phi3ForCausalLM,
        config=hf.Phi3Config(**PHI3_LONGROPE, rope_parameters=dict(LONGROPE)),
        published=V4_ROPE
        | {
            "partial_rotary_factor": 0.75,
            "rope_scaling": {
                "type": "longrope",
                "short_factor": LONGROPE["short_factor"],
                "long_factor": LONGROPE["long_factor"],
            },
        },
        batch_size=1,
        q_seq_len=16,
    ),
    "phi3-longrope-long": Case(
        model=hf.Phi3ForCausalLM,
        config=hf.Phi3Config(**PHI3_LONGROPE, rope_parameters=dict(LONGROPE)),
        batch_size=1,
        q_seq_len=24,
    ),
    "llama-linear": Case(
        model=hf.LlamaForCausalLM,
        config=hf.LlamaConfig(**LONG, rope_parameters={"rope_type": "linear", "factor": 4.0}),
        published=V4_ROPE | {"rope_scaling": {"type": "linear", "factor": 4.0}},
        **LONG_CALL,
    ),
    "llama-llama3": Case(
        model=hf.LlamaForCausalLM,
        config=hf.LlamaConfig(
            **LONG,
            rope_parameters={
                "rope_type": "llama3",
                "rope_theta": 500.0,
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 2.0,
                "original_max_position_embeddings": 16,
            },
        ),
        published={
            "rope_parameters": REMOVED,
            "rope_theta": 500.0,
            "rope_scaling": {
                "rope_type": "llama3",
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 2.0,
                "original_max_position_embeddings": 16,
            },
        },
        **LONG_CALL,
    ),
    "llama-yarn": Case(
        model=hf.LlamaForCausalLM,
        config=hf.LlamaConfig(
            **LONG,
            rope_parameters={
                "rope_type": "yarn",
                "rope_theta": 500.0,
                "factor": 4.0,
                "beta_fast": 4.0,
                "beta_slow": 0.5,
                "original_max_position_embeddings": 16,
            },
        ),
        **LONG_CALL,
    ),
    "llama-sharded-bf16": Case(  # multi-query, and biases
        model=hf.LlamaForCausalLM,
        config=hf.LlamaConfig(**SMALL, num_key_value_heads=1, attention_bias=True),
        published=V4_ROPE | {"dtype": REMOVED, "torch_dtype": "bfloat16", "rope_scaling": None},
        is_bfloat16=True,
        max_shard_size="15KB",
    ),
    "mistral-positions": Case(  # the window depends on indices, not on positions
        model=hf.MistralForCausalLM,
        config=hf.MistralConfig(**GROUPED, sliding_window=4),
        published=V4_ROPE,
        positions=((5, 6, 7, 8, 9, 10, 11), (0, 2, 3, 3, 9, 40, 1000)),
    ),
    "roberta": Case(
        model=hf.RobertaForMaskedLM,
        config=hf.RobertaConfig(**SMALL, max_position_embeddings=16, type_vocab_size=1),
        is_padded=True,
    ),
    "gpt_oss": Case(  # layer 0 has a sliding window
        model=hf.GptOssForCausalLM,
        config=hf.GptOssConfig(
            **GROUPED,
            head_dim=24,
            sliding_window=4,
            num_local_experts=2,
            num_experts_per_tok=1,
            rope_parameters={
                "rope_type": "yarn",
                "rope_theta": 150000.0,
                "factor": 32.0,
                "beta_fast": 32.0,
                "beta_slow": 1.0,
                "truncate": False,
                "original_max_position_embeddings": 4096,
            },
        ),
        published={
            "rope_parameters": REMOVED,
            "rope_theta": 150000.0,
            "rope_scaling": {
                "rope_type": "yarn",
                "factor": 32.0,
                "beta_fast": 32.0,
                "beta_slow": 1.0,
                "truncate": False,
                "original_max_position_embeddings": 4096,
            },
        },
        q_seq_len=9,
    ),
    "gpt2-inverse-layer": Case(
        model=hf.GPT2LMHeadModel,
        config=hf.GPT2Config(
            vocab_size=40,
            n_positions=16,
            n_embd=64,
            n_layer=2,
            n_head=4,
            n_inner=16,
            scale_attn_by_inverse_layer_idx=True,
            reorder_and_upcast_attn=True,
            bos_token_id=1,
            eos_token_id=2,
        ),
    ),
    "t5-v1_1": Case(
        model=hf.T5ForConditionalGeneration,
        config=hf.T5Config(
            vocab_size=40,
            d_model=32,
            d_kv=8,
            d_ff=16,
            num_layers=2,
            num_heads=3,
            relative_attention_num_buckets=8,
            relative_attention_max_distance=6,
            feed_forward_proj="gated-gelu",
            tie_word_embeddings=False,
            decoder_start_token_id=0,
        ),
        published={"tie_word_embeddings": False},
        q_seq_len=16,
        encoder_seq_len=20,
        is_padded=True,
        gain=1.0,
    ),
    "gemma": Case(
        model=hf.GemmaForCausalLM, config=hf.GemmaConfig(**SINGLE, head_dim=24), published=V4_ROPE
    ),
    "gemma3_text": Case(  # layer 0 has a sliding window
        model=hf.Gemma3ForCausalLM,
        config=hf.Gemma3TextConfig(
            **GROUPED,
            head_dim=24,
            sliding_window=4,
            query_pre_attn_scalar=20,
            layer_types=["sliding_attention", "full_attention"],
        ),
        published={
            "rope_parameters": REMOVED,
            "layer_types": REMOVED,
            "_sliding_window_pattern": REMOVED,
            "sliding_window_pattern": 2,
            "rope_theta": 1000000.0,
            "rope_local_base_freq": 10000.0,
            "rope_scaling": {"rope_type": "linear", "factor": 8.0},
        },
        q_seq_len=9,
    ),
    "gemma3_text-bidirectional": Case(  # as EmbeddingGemma
        model=hf.Gemma3TextModel,
        config=hf.Gemma3TextConfig(
            **GROUPED,
            head_dim=24,
            sliding_window=6,
            query_pre_attn_scalar=20,
            layer_types=["sliding_attention", "full_attention"],
            use_bidirectional_attention=True,
        ),
        published={
            "rope_parameters": REMOVED,
            "rope_theta": 1000000.0,
            "rope_local_base_freq": 10000.0,
        },
        q_seq_len=9,
        is_padded=True,
    ),
    "granite": Case(
        model=hf.GraniteForCausalLM,
        config=hf.GraniteConfig(**SINGLE, attention_multiplier=0.125),
        published=V4_ROPE,
    ),
    "starcoder2": Case(
        model=hf.Starcoder2ForCausalLM,
        config=hf.Starcoder2Config(**SINGLE, sliding_window=4),
        published=V4_ROPE,
    ),
    "stablelm": Case(
        model=hf.StableLmForCausalLM,
        config=hf.StableLmConfig(**SINGLE, use_qkv_bias=True),
        published=V4_ROPE | {"partial_rotary_factor": 0.25},
    ),
    "phi": Case(
        model=hf.PhiForCausalLM,
        config=hf.PhiConfig(**SMALL | {"num_hidden_layers": 1}),
        published=V4_ROPE | {"partial_rotary_factor": 0.5},
    ),
    "cohere": Case(  # interleaved rotary
        model=hf.CohereForCausalLM, config=hf.CohereConfig(**SINGLE), published=V4_ROPE
    ),
    "gptj": Case(  # interleaved and partial rotary
        model=hf.GPTJForCausalLM,
        config=hf.GPTJConfig(
            vocab_size=40,
            n_positions=32,
            n_embd=64,
            n_layer=1,
            n_head=4,
            n_inner=16,
            rotary_dim=8,
            bos_token_id=1,
            eos_token_id=2,
        ),
    ),
    "bloom": Case(  # 6 heads: the slopes of 4 heads, and every other slope of 8 heads
        model=hf.BloomForCausalLM,
        config=hf.BloomConfig(
            vocab_size=40, hidden_size=48, n_layer=1, n_head=6, bos_token_id=1, eos_token_id=2
        ),
        q_seq_len=12,
    ),
    "mpt": Case(
        model=hf.MptForCausalLM,
        config=hf.MptConfig(
            vocab_size=40, d_model=48, n_heads=6, n_layers=1, expansion_ratio=1, max_seq_len=32
        ),
        q_seq_len=12,
    ),
    "falcon": Case(
        model=hf.FalconForCausalLM,
        config=hf.FalconConfig(
            vocab_size=40,
            hidden_size=64,
            num_hidden_layers=1,
            num_attention_heads=4,
            num_kv_heads=2,
            new_decoder_architecture=True,
            ffn_hidden_size=16,
            bias=True,
            bos_token_id=1,
            eos_token_id=2,
        ),
        published=V4_ROPE,
    ),
}
