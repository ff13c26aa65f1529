"""Models of images, and the towers of text that are trained with them."""

from __future__ import annotations

from dataclasses import replace

from polyhead_models.checkpoint.designs import vision as designs
from polyhead_models.checkpoint.families.family import (
    ALL_FOUR,
    QKV,
    AttentionLocation,
    Family,
    TensorNames,
    separate_names,
)
from polyhead_models.checkpoint.families.masks import not_causal, only_causal
from polyhead_models.checkpoint.families.settings import always, flag, integer

__all__ = [
    "CLIP",
    "CLIP_TEXT",
    "CLIP_VISION",
    "DEIT",
    "DINOV2",
    "DINOV2_WITH_REGISTERS",
    "SIGLIP",
    "SIGLIP_TEXT",
    "SIGLIP_VISION",
    "VIT",
]

_WITH_BIAS = dict.fromkeys(ALL_FOUR, always(value=True))


def _vit(old_layer: str, layer: str) -> AttentionLocation:
    """Describe the attention of ViT and DINOv2."""
    return AttentionLocation(
        stack="encoder",
        names=(
            TensorNames(
                module=f"{old_layer}.attention",
                q_proj="attention.query",
                k_proj="attention.key",
                v_proj="attention.value",
                out_proj="output.dense",
            ),
            separate_names(f"{layer}.attention", out_proj="o_proj"),
        ),
        num_layers=integer("num_hidden_layers"),
        config={
            "embed_dim": integer("hidden_size"),
            "num_heads": integer("num_attention_heads"),
            "is_causal": not_causal,
            "head_dim": integer("head_dim", 0),
        },
        biases=dict.fromkeys(QKV, flag("qkv_bias", default=True))
        | {"out_proj": always(value=True)},
    )


VIT = Family(
    model_types=("vit",),
    locations=(_vit("encoder.layer.{layer}", "layers.{layer}"),),
    whole=designs.vit,
)
DEIT = replace(VIT, model_types=("deit",), whole=designs.deit)
DINOV2 = Family(
    model_types=("dinov2",),
    locations=(_vit("encoder.layer.{layer}", "encoder.layer.{layer}"),),
    whole=designs.dinov2,
)
DINOV2_WITH_REGISTERS = replace(
    DINOV2, model_types=("dinov2_with_registers",), whole=designs.dinov2_with_registers
)


def _tower(
    stack: str, width: int, heads: int, *settings: str, is_causal: bool = False
) -> AttentionLocation:
    """Describe a tower of CLIP or SigLIP; without settings, it is saved alone."""
    modules = (f"{stack}_model.encoder.layers", "encoder.layers")[: 1 if settings else 2]
    return AttentionLocation(
        stack=stack,
        settings=settings,
        names=tuple(separate_names(f"{module}.{{layer}}.self_attn") for module in modules),
        num_layers=integer("num_hidden_layers", 12),
        config={
            "embed_dim": integer("hidden_size", width),
            "num_heads": integer("num_attention_heads", heads),
            "is_causal": only_causal if is_causal else not_causal,
        },
        biases=_WITH_BIAS,
    )


CLIP = Family(
    model_types=("clip",),
    locations=(
        _tower("text", 512, 8, *designs.CLIP_TEXT_KEYS, is_causal=True),
        _tower("vision", 768, 12, *designs.CLIP_VISION_KEYS),
    ),
    whole=designs.clip,
)
CLIP_TEXT = Family(
    model_types=("clip_text_model",),
    locations=(_tower("text", 512, 8, is_causal=True),),
    whole=designs.clip_text,
)
CLIP_VISION = Family(
    model_types=("clip_vision_model",),
    locations=(_tower("vision", 768, 12),),
    whole=designs.clip_vision,
)
SIGLIP = Family(
    model_types=("siglip",),
    locations=(
        _tower("text", 768, 12, *designs.TEXT_KEYS),
        _tower("vision", 768, 12, *designs.VISION_KEYS),
    ),
    whole=designs.siglip,
)
SIGLIP_TEXT = Family(
    model_types=("siglip_text_model",),
    locations=(_tower("text", 768, 12),),
    whole=designs.siglip_text,
)
SIGLIP_VISION = Family(
    model_types=("siglip_vision_model",),
    locations=(_tower("vision", 768, 12),),
    whole=designs.siglip_vision,
)
