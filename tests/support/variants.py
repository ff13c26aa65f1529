"""One small attention block of each kind, by the name that tests serve it under."""

from polyhead_models.config import AttentionConfig
from polyhead_models.rotary import Rotary

VARIANTS = {
    "plain": AttentionConfig(embed_dim=16, num_heads=4),
    "causal": AttentionConfig(embed_dim=32, num_heads=4, is_causal=True),
    # heads that the fused causal operator does not take
    "causal-narrow": AttentionConfig(embed_dim=12, num_heads=4, is_causal=True),
    "cross": AttentionConfig(embed_dim=16, num_heads=2, kdim=10, vdim=6),
    "wide-heads": AttentionConfig(embed_dim=8, num_heads=3, head_dim=16, scale=0.5),
    "contexts": AttentionConfig(embed_dim=16, num_heads=2, has_out_proj=False),
    "grouped": AttentionConfig(embed_dim=16, num_heads=4, num_kv_heads=2),
    "multi-query-causal": AttentionConfig(
        embed_dim=32, num_heads=4, num_kv_heads=1, is_causal=True
    ),
    "other-values": AttentionConfig(embed_dim=16, num_heads=2, v_head_dim=5, kdim=12),
    "window": AttentionConfig(embed_dim=16, num_heads=2, sliding_window=2),
    "window-causal": AttentionConfig(embed_dim=16, num_heads=2, sliding_window=3, is_causal=True),
    "softcap": AttentionConfig(embed_dim=16, num_heads=2, softcap=1.5, is_causal=True),
    "rotary": AttentionConfig(embed_dim=16, num_heads=2, rotary=Rotary(dim=8), is_causal=True),
    "rotary-interleaved": AttentionConfig(
        embed_dim=16, num_heads=2, rotary=Rotary(dim=4, is_interleaved=True)
    ),
    "yarn": AttentionConfig(
        embed_dim=16,
        num_heads=2,
        rotary=Rotary(dim=8, scaling="yarn", factor=4.0, original_max_positions=8),
    ),
    "longrope": AttentionConfig(
        embed_dim=16,
        num_heads=2,
        rotary=Rotary(
            dim=4,
            scaling="longrope",
            factor=4.0,
            original_max_positions=6,
            short_factors=(1.0, 1.5),
            long_factors=(2.0, 8.0),
        ),
    ),
    "dynamic": AttentionConfig(
        embed_dim=16,
        num_heads=2,
        rotary=Rotary(dim=8, scaling="dynamic", factor=4.0, original_max_positions=6),
    ),
    "alibi": AttentionConfig(embed_dim=15, num_heads=3, has_alibi=True),
    "relative": AttentionConfig(
        embed_dim=16, num_heads=2, relative_buckets=8, relative_max_distance=6, scale=1.0
    ),
    "sinks": AttentionConfig(
        embed_dim=16, num_heads=2, has_sinks=True, is_causal=True, sliding_window=4
    ),
    "norm": AttentionConfig(embed_dim=16, num_heads=2, qk_norm_eps=1e-6),
    "sdpa": AttentionConfig(
        embed_dim=16,
        num_heads=4,
        num_kv_heads=2,
        v_head_dim=6,
        has_in_proj=False,
        has_out_proj=False,
    ),
    "everything": AttentionConfig(
        embed_dim=12,
        num_heads=4,
        num_kv_heads=2,
        head_dim=8,
        v_head_dim=6,
        kdim=10,
        vdim=14,
        is_causal=True,
        sliding_window=5,
        scale=0.5,
        softcap=2.0,
        rotary=Rotary(dim=6, scaling="linear", factor=2.0),
        has_alibi=True,
        relative_buckets=8,
        relative_max_distance=10,
        has_sinks=True,
        qk_norm_eps=1e-5,
    ),
}
