"""Models with an encoder, and a decoder that attends to the encoder's output."""

from __future__ import annotations

from dataclasses import replace
from types import MappingProxyType
from typing import TYPE_CHECKING

from polyhead_models.checkpoint.designs import encoder_decoders as designs
from polyhead_models.checkpoint.families.family import (
    ALL_FOUR,
    AttentionLocation,
    Family,
    TensorNames,
    separate_names,
)
from polyhead_models.checkpoint.families.masks import causal, not_causal, only_causal
from polyhead_models.checkpoint.families.settings import Settings, always, integer

if TYPE_CHECKING:
    from polyhead_models.checkpoint.families.family import Whole

__all__ = ["BART", "MBART", "MT5", "T5", "WHISPER"]

# --- T5


_T5_CONFIG = {
    "embed_dim": integer("d_model", 512),
    "head_dim": integer("d_kv", 64),
    "scale": always(1.0),
}
_T5_BUCKETS = {
    "relative_buckets": integer("relative_attention_num_buckets", 32),
    "relative_max_distance": integer("relative_attention_max_distance", 128),
}
_T5_LOCATIONS = (
    ("encoder", "self", "layer.0.SelfAttention", _T5_BUCKETS | {"is_causal": not_causal}),
    ("decoder", "self", "layer.0.SelfAttention", _T5_BUCKETS | {"is_causal": only_causal}),
    ("decoder", "cross", "layer.1.EncDecAttention", {"is_causal": not_causal}),
)


def _t5(model_type: str, num_layers: int, num_heads: int, whole: Whole) -> Family:
    """Describe T5 or mT5, which differ in the defaults of missing keys."""
    layers = integer("num_layers", num_layers)

    def decoder_layers(settings: Settings, layer: int) -> int:
        if settings.values.get("num_decoder_layers") is None:
            return layers(settings, layer)
        return settings.count("num_decoder_layers")

    return Family(
        model_types=(model_type,),
        locations=tuple(
            AttentionLocation(
                stack=stack,
                kind=kind,
                names=(_t5_names(stack, module),),
                num_layers=layers if stack == "encoder" else decoder_layers,
                config={**_T5_CONFIG, "num_heads": integer("num_heads", num_heads), **config},
            )
            for stack, kind, module, config in _T5_LOCATIONS
        ),
        whole=whole,
        aliases=MappingProxyType(
            {
                "hidden_size": "d_model",
                "head_dim": "d_kv",
                "num_attention_heads": "num_heads",
                "num_hidden_layers": "num_layers",
            }
        ),
    )


def _t5_names(stack: str, module: str) -> TensorNames:
    return TensorNames(
        module=f"{stack}.block.{{layer}}.{module}",
        q_proj="q",
        k_proj="k",
        v_proj="v",
        out_proj="o",
        # only block 0 holds the table, for its whole stack
        relative_bias=f"{stack}.block.0.{module}.relative_attention_bias",
    )


T5 = _t5("t5", num_layers=6, num_heads=8, whole=designs.t5)
MT5 = _t5("mt5", num_layers=8, num_heads=6, whole=designs.mt5)

# --- BART and Whisper


def _bart(stack: str, kind: str, biased: tuple[str, ...]) -> AttentionLocation:
    module = "self_attn" if kind == "self" else "encoder_attn"
    return AttentionLocation(
        stack=stack,
        kind=kind,
        names=(separate_names(f"{stack}.layers.{{layer}}.{module}"),),
        num_layers=integer(f"{stack}_layers"),
        config={
            "embed_dim": integer("d_model"),
            "num_heads": integer(f"{stack}_attention_heads"),
            "is_causal": causal if (stack, kind) == ("decoder", "self") else not_causal,
        },
        biases=dict.fromkeys(biased, always(value=True)),
    )


def _three_locations(biased: tuple[str, ...]) -> tuple[AttentionLocation, ...]:
    kinds = (("encoder", "self"), ("decoder", "self"), ("decoder", "cross"))
    return tuple(_bart(stack, kind, biased) for stack, kind in kinds)


_ALIASES = MappingProxyType(
    {
        "hidden_size": "d_model",
        "num_attention_heads": "encoder_attention_heads",
        "num_hidden_layers": "encoder_layers",
    }
)
BART = Family(
    model_types=("bart",),
    locations=_three_locations(ALL_FOUR),
    whole=designs.bart,
    aliases=_ALIASES,
)
MBART = replace(BART, model_types=("mbart",), whole=designs.mbart)
WHISPER = Family(
    model_types=("whisper",),
    locations=_three_locations(("q_proj", "v_proj", "out_proj")),
    whole=designs.whisper,
    aliases=MappingProxyType({**_ALIASES, "num_key_value_heads": "encoder_attention_heads"}),
)
