"""Llama and its successors: grouped queries, rotary positions, sliding windows."""

from __future__ import annotations

from dataclasses import replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from polyhead_models.checkpoint.designs import llama as designs
from polyhead_models.checkpoint.families.family import (
    ALL_FOUR,
    QKV,
    AttentionLocation,
    Family,
    TensorNames,
    separate_names,
)
from polyhead_models.checkpoint.families.masks import SLIDING, after, causal, listed, window
from polyhead_models.checkpoint.families.rope import Rope
from polyhead_models.checkpoint.families.settings import always, flag, integer, number

if TYPE_CHECKING:
    from polyhead_models.checkpoint.families.settings import Rule, Settings

__all__ = [
    "COHERE",
    "GRANITE",
    "LLAMA",
    "LLAMA_NAMES",
    "LLAMA_LOCATION",
    "MISTRAL",
    "PHI",
    "PHI3",
    "QWEN2",
    "QWEN3",
    "STABLELM",
    "STARCODER2",
    "llama_config",
]


def _head_dim(default: int) -> Rule[int]:
    """Make a rule for the width of a head: by default its share of the embeddings, rounded down."""
    stated = integer("head_dim", default, null=0)

    def read(settings: Settings, layer: int) -> int:
        share = settings.count("hidden_size") // settings.count("num_attention_heads")
        return stated(settings, layer) or share

    return read


def llama_config(kv_heads: int = 0, head_dim: int = 0, **more: Rule[Any]) -> dict[str, Rule[Any]]:
    """Return the rules of the keys that all of these families share.

    ``kv_heads`` and ``head_dim`` are the defaults of missing keys; 0: num_heads, and a head's share
    of embed_dim.
    """
    return {
        "embed_dim": integer("hidden_size"),
        "num_heads": integer("num_attention_heads"),
        "num_kv_heads": integer("num_key_value_heads", kv_heads, null=0),
        "head_dim": _head_dim(head_dim),
        "is_causal": causal,
        **more,
    }


LLAMA_NAMES = separate_names("layers.{layer}.self_attn", out_proj="o_proj")
LLAMA_LOCATION = AttentionLocation(
    stack="decoder",
    names=(LLAMA_NAMES,),
    num_layers=integer("num_hidden_layers"),
    config=llama_config(),
    biases=dict.fromkeys(ALL_FOUR, flag("attention_bias", default=False)),
    rope=Rope(),
)
LLAMA = Family(model_types=("llama",), locations=(LLAMA_LOCATION,), whole=designs.llama)

_MISTRAL = replace(
    LLAMA_LOCATION,
    config=llama_config(kv_heads=8),
    biases={},
    layer_type=listed(always(SLIDING)),
    sliding_window=window(4096),
)
# transformers calls a Mistral that lists its layers' types Ministral
MISTRAL = Family(model_types=("mistral", "ministral"), locations=(_MISTRAL,), whole=designs.mistral)

_PHI3 = replace(
    LLAMA_LOCATION,
    names=(TensorNames(module="layers.{layer}.self_attn", qkv_proj="qkv_proj", out_proj="o_proj"),),
    biases={},
    rope=Rope(
        fraction=("partial_rotary_factor", 1.0),
        aliases=MappingProxyType({"su": "longrope", "yarn": "longrope"}),
        original_max_positions=4096,
        is_rounded_up=True,
    ),
    layer_type=always(SLIDING),
    sliding_window=window(0),
)
PHI3 = Family(model_types=("phi3",), locations=(_PHI3,), whole=designs.phi3)


def _qwen_window(settings: Settings, layer: int) -> int:
    """Read the window, which Qwen's files state even if it is not used."""
    is_used = settings.get("use_sliding_window", bool, default=False)
    return window(4096)(settings, layer) if is_used else 0


_QWEN2 = replace(
    LLAMA_LOCATION,
    config=llama_config(kv_heads=32),
    biases=dict.fromkeys(QKV, always(value=True)),
    layer_type=listed(after("max_window_layers", 28)),
    sliding_window=_qwen_window,
)
QWEN2 = Family(model_types=("qwen2",), locations=(_QWEN2,), whole=designs.mistral)

_QWEN3 = replace(
    _QWEN2,
    names=(replace(LLAMA_NAMES, q_norm="q_norm", k_norm="k_norm"),),
    config=llama_config(kv_heads=32, head_dim=128, qk_norm_eps=number("rms_norm_eps", 1e-6)),
    biases=LLAMA_LOCATION.biases,
)
QWEN3 = Family(model_types=("qwen3",), locations=(_QWEN3,), whole=designs.mistral)

_GRANITE = replace(LLAMA_LOCATION, config=llama_config(scale=number("attention_multiplier", 1.0)))
GRANITE = Family(model_types=("granite",), locations=(_GRANITE,), whole=designs.granite)

_COHERE = replace(LLAMA_LOCATION, rope=Rope(theta=("rope_theta", 500000.0), is_interleaved=True))
COHERE = Family(
    model_types=("cohere",),
    whole=designs.cohere,
    locations=(_COHERE,),
    supported=MappingProxyType({"use_qk_norm": (False, None)}),
)

_STARCODER2 = replace(
    LLAMA_LOCATION,
    config=llama_config(kv_heads=2),
    biases=dict.fromkeys(ALL_FOUR, flag("use_bias", default=True)),
    layer_type=always(SLIDING),
    sliding_window=window(0),
)
STARCODER2 = Family(model_types=("starcoder2",), locations=(_STARCODER2,), whole=designs.starcoder2)

_STABLELM = replace(
    LLAMA_LOCATION,
    config=llama_config(kv_heads=32),
    biases=dict.fromkeys(QKV, flag("use_qkv_bias", default=False)),
    rope=Rope(fraction=("partial_rotary_factor", 0.25)),
)
STABLELM = Family(
    model_types=("stablelm",),
    whole=designs.stablelm,
    locations=(_STABLELM,),
    supported=MappingProxyType({"qk_layernorm": (False,)}),
)

_PHI = replace(
    LLAMA_LOCATION,
    names=(replace(LLAMA_NAMES, out_proj="dense"),),
    biases=dict.fromkeys(ALL_FOUR, always(value=True)),
    rope=Rope(fraction=("partial_rotary_factor", 0.5)),
)
PHI = Family(
    model_types=("phi",),
    whole=designs.phi,
    locations=(_PHI,),
    supported=MappingProxyType({"qk_layernorm": (False,)}),
)
