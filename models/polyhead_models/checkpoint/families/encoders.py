"""Models that read a whole sequence at once, of words or of image patches."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING

from polyhead_models.checkpoint.designs import encoders as designs
from polyhead_models.checkpoint.families.family import (
    ALL_FOUR,
    QKV,
    AttentionLocation,
    Family,
    TensorNames,
    separate_names,
)
from polyhead_models.checkpoint.families.masks import (
    FULL,
    SLIDING,
    causal_or_encoder,
    every,
    listed,
    not_causal,
    only_causal,
)
from polyhead_models.checkpoint.families.rope import Rope
from polyhead_models.checkpoint.families.settings import always, flag, integer

if TYPE_CHECKING:
    from polyhead_models.checkpoint.families.settings import Settings

__all__ = ["BERT", "CLIP", "CLIP_TEXT", "CLIP_VISION", "DISTILBERT", "MODERNBERT", "ROBERTA", "VIT"]

_WITH_BIAS = dict.fromkeys(ALL_FOUR, always(value=True))
_BERT_CONFIG = {
    "embed_dim": integer("hidden_size"),
    "num_heads": integer("num_attention_heads"),
    "is_causal": not_causal,
}


def _bert(module: str) -> tuple[TensorNames, ...]:
    return (
        TensorNames(
            module=f"encoder.layer.{{layer}}.{module}",
            q_proj="self.query",
            k_proj="self.key",
            v_proj="self.value",
            out_proj="output.dense",
        ),
    )


_BERT_LOCATIONS = (
    AttentionLocation(
        stack="encoder",
        names=_bert("attention"),
        num_layers=integer("num_hidden_layers"),
        config=_BERT_CONFIG | {"is_causal": causal_or_encoder},
        biases=_WITH_BIAS,
    ),
    AttentionLocation(
        stack="encoder",
        kind="cross",
        names=_bert("crossattention"),
        num_layers=integer("num_hidden_layers"),
        config=_BERT_CONFIG,
        biases=_WITH_BIAS,
        exists=flag("add_cross_attention", default=False),
    ),
)
_ABSOLUTE = MappingProxyType({"position_embedding_type": ("absolute", None)})
BERT = Family(
    model_types=("bert", "electra"),
    locations=_BERT_LOCATIONS,
    whole=designs.bert,
    supported=_ABSOLUTE,
)
ROBERTA = Family(
    model_types=("roberta", "xlm-roberta", "camembert"),
    locations=_BERT_LOCATIONS,
    whole=designs.roberta,
    supported=_ABSOLUTE,
)

DISTILBERT = Family(
    model_types=("distilbert",),
    locations=(
        AttentionLocation(
            stack="encoder",
            names=(
                TensorNames(
                    module="transformer.layer.{layer}.attention",
                    q_proj="q_lin",
                    k_proj="k_lin",
                    v_proj="v_lin",
                    out_proj="out_lin",
                ),
            ),
            num_layers=integer("n_layers"),
            config={
                "embed_dim": integer("dim"),
                "num_heads": integer("n_heads"),
                "is_causal": not_causal,
            },
            biases=_WITH_BIAS,
        ),
    ),
    aliases=MappingProxyType(
        {"hidden_size": "dim", "num_attention_heads": "n_heads", "num_hidden_layers": "n_layers"}
    ),
)


def _half_window(settings: Settings, _layer: int) -> int:
    """Read the window, which reaches half of local_attention to either side.

    sliding_window is that half, and transformers uses it if a file has it, too.
    """
    half = settings.count("local_attention", 128) // 2
    return settings.count("sliding_window", half, minimum=0) + 1


MODERNBERT = Family(
    model_types=("modernbert",),
    locations=(
        AttentionLocation(
            stack="encoder",
            names=(TensorNames(module="layers.{layer}.attn", qkv_proj="Wqkv", out_proj="Wo"),),
            num_layers=integer("num_hidden_layers"),
            config=_BERT_CONFIG,
            biases=dict.fromkeys(ALL_FOUR, flag("attention_bias", default=False)),
            rope=Rope(
                theta=("global_rope_theta", 160000.0),
                local_theta=("local_rope_theta", 10000.0),
                scaled_layer_types=(FULL, SLIDING),
            ),
            layer_type=listed(every(integer("global_attn_every_n_layers", 3))),
            sliding_window=_half_window,
        ),
    ),
)

VIT = Family(
    model_types=("vit", "deit"),
    locations=(
        AttentionLocation(
            stack="encoder",
            names=(
                TensorNames(
                    module="encoder.layer.{layer}.attention",
                    q_proj="attention.query",
                    k_proj="attention.key",
                    v_proj="attention.value",
                    out_proj="output.dense",
                ),
                separate_names("layers.{layer}.attention", out_proj="o_proj"),
            ),
            num_layers=integer("num_hidden_layers"),
            config=_BERT_CONFIG | {"head_dim": integer("head_dim", 0)},
            biases=dict.fromkeys(QKV, flag("qkv_bias", default=True))
            | {"out_proj": always(value=True)},
        ),
    ),
)


def _clip(
    stack: str, width: int, heads: int, *modules: str, settings: str = ""
) -> AttentionLocation:
    """Describe one of CLIP's towers, which differ in size; the text tower is causal."""
    return AttentionLocation(
        stack=stack,
        settings=settings,
        names=tuple(separate_names(f"{module}.{{layer}}.self_attn") for module in modules),
        num_layers=integer("num_hidden_layers", 12),
        config={
            "embed_dim": integer("hidden_size", width),
            "num_heads": integer("num_attention_heads", heads),
            "is_causal": only_causal if stack == "text" else not_causal,
        },
        biases=_WITH_BIAS,
    )


_TEXT, _VISION = ("text_model.encoder.layers", "vision_model.encoder.layers")
CLIP = Family(
    model_types=("clip",),
    locations=(
        _clip("text", 512, 8, _TEXT, settings="text_config"),
        _clip("vision", 768, 12, _VISION, settings="vision_config"),
    ),
)
CLIP_TEXT = Family(
    model_types=("clip_text_model",), locations=(_clip("text", 512, 8, _TEXT, "encoder.layers"),)
)
CLIP_VISION = Family(
    model_types=("clip_vision_model",),
    locations=(_clip("vision", 768, 12, _VISION, "encoder.layers"),),
)
