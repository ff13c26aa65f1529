"""Gemma 1 to 3, which have their own scales and soft caps, and gpt-oss."""

from __future__ import annotations

from dataclasses import replace
from types import MappingProxyType
from typing import TYPE_CHECKING

from polyhead_models.checkpoint.designs import gemma as designs
from polyhead_models.checkpoint.families.family import ALL_FOUR, Family
from polyhead_models.checkpoint.families.llama import LLAMA_LOCATION, LLAMA_NAMES, llama_config
from polyhead_models.checkpoint.families.masks import FULL, causal, every, listed, window
from polyhead_models.checkpoint.families.rope import Rope
from polyhead_models.checkpoint.families.settings import always, flag, integer, number

if TYPE_CHECKING:
    from polyhead_models.checkpoint.families.settings import Settings

__all__ = ["GEMMA", "GEMMA2", "GEMMA3", "GPT_OSS"]

_GEMMA = replace(LLAMA_LOCATION, config=llama_config(kv_heads=16, head_dim=256))
GEMMA = Family(model_types=("gemma",), locations=(_GEMMA,), whole=designs.gemma)


def _scale(settings: Settings, layer: int) -> float:
    return float(number("query_pre_attn_scalar", 256.0)(settings, layer) ** -0.5)


_GEMMA2 = replace(
    LLAMA_LOCATION,
    config=llama_config(
        kv_heads=4,
        head_dim=256,
        scale=_scale,
        softcap=number("attn_logit_softcapping", 50.0, null=0.0),
    ),
    layer_type=listed(every(always(2), is_full_last=True)),
    sliding_window=window(4096),
)
GEMMA2 = Family(model_types=("gemma2",), locations=(_GEMMA2,), whole=designs.gemma2)


def _is_bidirectional(settings: Settings) -> bool:
    return settings.get("use_bidirectional_attention", bool, default=False, null=False)


def _gemma3_causal(settings: Settings, layer: int) -> bool:
    return not _is_bidirectional(settings) and causal(settings, layer)


def _gemma3_window(settings: Settings, layer: int) -> int:
    """Read the window, which reaches half of it to either side with use_bidirectional_attention."""
    if _is_bidirectional(settings):
        half = settings.count("sliding_window", 4096) // 2
        settings = replace(settings, values={**settings.values, "sliding_window": half + 1})
    return window(4096)(settings, layer)


_GEMMA3 = replace(
    LLAMA_LOCATION,
    names=(replace(LLAMA_NAMES, q_norm="q_norm", k_norm="k_norm", is_norm_less_one=True),),
    config=llama_config(
        kv_heads=4,
        head_dim=256,
        scale=_scale,
        qk_norm_eps=number("rms_norm_eps", 1e-6),
    )
    | {"is_causal": _gemma3_causal},
    rope=Rope(
        theta=("rope_theta", 1000000.0),
        local_theta=("rope_local_base_freq", 10000.0),
        scaled_layer_types=(FULL,),
    ),
    layer_type=listed(every(integer("sliding_window_pattern", 6), is_full_last=True)),
    sliding_window=_gemma3_window,
)
GEMMA3 = Family(model_types=("gemma3_text",), locations=(_GEMMA3,), whole=designs.gemma2)

_GPT_OSS = replace(
    LLAMA_LOCATION,
    names=(replace(LLAMA_NAMES, sinks="sinks"),),
    config=llama_config(kv_heads=8, head_dim=64, has_sinks=always(value=True)),
    biases=dict.fromkeys(ALL_FOUR, flag("attention_bias", default=True)),
    rope=Rope(
        theta=("rope_theta", 150000.0),
        scaling=MappingProxyType(
            {
                "rope_type": "yarn",
                "factor": 32.0,
                "truncate": False,
                "original_max_position_embeddings": 4096,
            }
        ),
    ),
    layer_type=listed(every(always(2), is_full_last=True)),
    sliding_window=window(128),
)
GPT_OSS = Family(model_types=("gpt_oss",), locations=(_GPT_OSS,), whole=designs.gpt_oss)
