"""GPT-2 and models between it and Llama: causal self-attention, mostly without shared heads."""

from __future__ import annotations

from dataclasses import replace
from types import MappingProxyType
from typing import TYPE_CHECKING

from polyhead_models.checkpoint.designs import gpt as designs
from polyhead_models.checkpoint.families.family import (
    ALL_FOUR,
    AttentionLocation,
    Family,
    TensorNames,
    separate_names,
)
from polyhead_models.checkpoint.families.masks import causal, not_causal, only_causal
from polyhead_models.checkpoint.families.rope import Rope
from polyhead_models.checkpoint.families.settings import always, flag, integer

if TYPE_CHECKING:
    from polyhead_models.checkpoint.families.settings import Settings

__all__ = ["BLOOM", "FALCON", "GPT2", "GPTJ", "GPT_NEOX", "MPT", "OPT"]


def _gpt2_scale(settings: Settings, layer: int) -> float:
    by_width = settings.get("scale_attn_weights", bool, default=True)
    by_layer = settings.get("scale_attn_by_inverse_layer_idx", bool, default=False)
    if by_width and not by_layer:
        return 0.0  # the default scale
    head_dim = settings.count("n_embd") // settings.count("n_head")
    scale = max(head_dim, 1) ** -0.5 if by_width else 1.0
    return scale / (layer + 1) if by_layer else scale


_GPT2_ALIASES = MappingProxyType(
    {
        "hidden_size": "n_embd",
        "max_position_embeddings": "n_positions",
        "num_attention_heads": "n_head",
        "num_hidden_layers": "n_layer",
    }
)
_GPT2_CONFIG = {
    "embed_dim": integer("n_embd"),
    "num_heads": integer("n_head"),
    "scale": _gpt2_scale,
}
GPT2 = Family(
    model_types=("gpt2",),
    whole=designs.gpt2,
    locations=(
        AttentionLocation(
            stack="decoder",
            names=(
                TensorNames(
                    module="h.{layer}.attn",
                    qkv_proj="c_attn",
                    out_proj="c_proj",
                    is_transposed=True,
                ),
            ),
            num_layers=integer("n_layer"),
            config=_GPT2_CONFIG | {"is_causal": causal},
            biases=dict.fromkeys(ALL_FOUR, always(value=True)),
        ),
        AttentionLocation(
            stack="decoder",
            kind="cross",
            names=(
                TensorNames(
                    module="h.{layer}.crossattention",
                    q_proj="q_attn",
                    kv_proj="c_attn",
                    out_proj="c_proj",
                    is_transposed=True,
                ),
            ),
            num_layers=integer("n_layer"),
            config=_GPT2_CONFIG | {"is_causal": not_causal},
            biases=dict.fromkeys(ALL_FOUR, always(value=True)),
            exists=flag("add_cross_attention", default=False),
        ),
    ),
    aliases=_GPT2_ALIASES,
)

_CONFIG = {
    "embed_dim": integer("hidden_size"),
    "num_heads": integer("num_attention_heads"),
    "is_causal": causal,
}
OPT = Family(
    model_types=("opt",),
    whole=designs.opt,
    locations=(
        AttentionLocation(
            stack="decoder",
            names=(separate_names("decoder.layers.{layer}.self_attn"),),
            num_layers=integer("num_hidden_layers"),
            config=_CONFIG,
            biases=dict.fromkeys(ALL_FOUR, flag("enable_bias", default=True)),
        ),
    ),
)

_FUSED_BY_GROUP = TensorNames(
    module="h.{layer}.self_attention",
    qkv_proj="query_key_value",
    out_proj="dense",
    is_by_group=True,
)
GPT_NEOX = Family(
    model_types=("gpt_neox",),
    whole=designs.gpt_neox,
    locations=(
        AttentionLocation(
            stack="decoder",
            names=(replace(_FUSED_BY_GROUP, module="layers.{layer}.attention"),),
            num_layers=integer("num_hidden_layers"),
            config=_CONFIG,
            biases=dict.fromkeys(ALL_FOUR, flag("attention_bias", default=True)),
            rope=Rope(
                theta=("rotary_emb_base", 10000.0),
                fraction=("rotary_pct", 0.25),
                reads_head_dim=True,
                is_rounded_up=True,
            ),
        ),
    ),
)

GPTJ = Family(
    model_types=("gptj",),
    whole=designs.gptj,
    locations=(
        AttentionLocation(
            stack="decoder",
            names=(separate_names("h.{layer}.attn"),),
            num_layers=integer("n_layer"),
            config={
                "embed_dim": integer("n_embd"),
                "num_heads": integer("n_head"),
                "is_causal": causal,
            },
            rope=Rope(dim=("rotary_dim", 64), is_interleaved=True, only_keys=("rotary_dim",)),
        ),
    ),
    aliases=_GPT2_ALIASES,
)

BLOOM = Family(
    model_types=("bloom",),
    whole=designs.bloom,
    locations=(
        AttentionLocation(
            stack="decoder",
            names=(_FUSED_BY_GROUP,),
            num_layers=integer("n_layer"),
            config={
                "embed_dim": integer("hidden_size"),
                "num_heads": integer("n_head"),
                "is_causal": only_causal,
                "has_alibi": always(value=True),
            },
            biases=dict.fromkeys(ALL_FOUR, always(value=True)),
        ),
    ),
    aliases=MappingProxyType(
        {"n_embed": "hidden_size", "num_attention_heads": "n_head", "num_hidden_layers": "n_layer"}
    ),
)


def _falcon_kv_heads(settings: Settings, layer: int) -> int:
    if settings.get("new_decoder_architecture", bool, default=False, null=False):
        return integer("num_kv_heads", 0, null=0)(settings, layer)
    return 1 if settings.get("multi_query", bool, default=True) else 0


FALCON = Family(
    model_types=("falcon",),
    whole=designs.falcon,
    locations=(
        AttentionLocation(
            stack="decoder",
            names=(_FUSED_BY_GROUP,),
            num_layers=integer("num_hidden_layers"),
            config={
                "embed_dim": integer("hidden_size"),
                "num_heads": integer("num_attention_heads"),
                "num_kv_heads": _falcon_kv_heads,
                "is_causal": causal,
            },
            biases=dict.fromkeys(ALL_FOUR, flag("bias", default=False)),
            rope=Rope(),
        ),
    ),
    aliases=MappingProxyType(
        {"n_embed": "hidden_size", "n_head": "num_attention_heads", "n_layer": "num_hidden_layers"}
    ),
    # transformers' eager attention adds Falcon's ALiBi twice, and its sdpa attention once; both
    # round it to bfloat16, by the key's index and not by the distance
    supported=MappingProxyType({"alibi": (False, None)}),
)

MPT = Family(
    model_types=("mpt",),
    whole=designs.mpt,
    locations=(
        AttentionLocation(
            stack="decoder",
            names=(
                TensorNames(module="blocks.{layer}.attn", qkv_proj="Wqkv", out_proj="out_proj"),
            ),
            num_layers=integer("n_layers"),
            config={
                "embed_dim": integer("d_model"),
                "num_heads": integer("n_heads"),
                "is_causal": only_causal,
                "has_alibi": always(value=True),
            },
        ),
    ),
    aliases=MappingProxyType(
        {
            "hidden_size": "d_model",
            "num_attention_heads": "n_heads",
            "num_hidden_layers": "n_layers",
        }
    ),
    supported=MappingProxyType(
        {
            "attn_config.alibi": (True,),
            "attn_config.alibi_bias_max": (8,),
            "attn_config.attn_type": ("multihead_attention",),
            "attn_config.clip_qkv": (None,),
            "attn_config.qk_ln": (False,),
            "attn_config.softmax_scale": (None,),
        }
    ),
)
