"""Models that read a whole sequence of words, or of amino acids, at once."""

from __future__ import annotations

from dataclasses import replace
from types import MappingProxyType
from typing import TYPE_CHECKING

from polyhead_models.checkpoint.designs import encoders as designs
from polyhead_models.checkpoint.families.family import (
    ALL_FOUR,
    AttentionLocation,
    Family,
    TensorNames,
)
from polyhead_models.checkpoint.families.masks import (
    FULL,
    SLIDING,
    causal_or_encoder,
    every,
    listed,
    not_causal,
)
from polyhead_models.checkpoint.families.rope import Rope
from polyhead_models.checkpoint.families.settings import always, flag, integer

if TYPE_CHECKING:
    from polyhead_models.checkpoint.families.settings import Settings

__all__ = ["ALBERT", "BERT", "DISTILBERT", "ELECTRA", "ESM", "MODERNBERT", "MPNET", "ROBERTA"]

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
    model_types=("bert",), locations=_BERT_LOCATIONS, whole=designs.bert, supported=_ABSOLUTE
)
ELECTRA = replace(BERT, model_types=("electra",), whole=designs.electra)
ROBERTA = replace(BERT, model_types=("roberta", "xlm-roberta", "camembert"), whole=designs.roberta)

# transformers' code has these numbers, whatever config.json says
_MPNET_BUCKETS = {"relative_buckets": always(32), "relative_max_distance": always(128)}
MPNET = Family(
    model_types=("mpnet",),
    locations=(
        AttentionLocation(
            stack="encoder",
            names=(
                TensorNames(
                    module="encoder.layer.{layer}.attention.attn",
                    q_proj="q",
                    k_proj="k",
                    v_proj="v",
                    out_proj="o",
                    relative_bias="encoder.relative_attention_bias",
                ),
            ),
            num_layers=integer("num_hidden_layers", 12),
            config=_BERT_CONFIG | _MPNET_BUCKETS,
            biases=_WITH_BIAS,
        ),
    ),
    whole=designs.mpnet,
    supported=MappingProxyType({"relative_attention_num_buckets": (32,)}),
)


def _albert_layers(settings: Settings, _layer: int) -> int:
    return settings.count("num_hidden_layers", 12) * settings.count("inner_group_num", 1)


def _albert_label(settings: Settings, layer: int) -> str:
    """Name the group whose weights a layer has, and the place in the group."""
    outer, inner = divmod(layer, settings.count("inner_group_num", 1))
    layers_of_group = settings.count("num_hidden_layers", 12) / settings.count(
        "num_hidden_groups", 1
    )
    return f"{int(outer / layers_of_group)}.albert_layers.{inner}"


ALBERT = Family(
    model_types=("albert",),
    locations=(
        AttentionLocation(
            stack="encoder",
            names=(
                TensorNames(
                    module="encoder.albert_layer_groups.{layer}.attention",
                    q_proj="query",
                    k_proj="key",
                    v_proj="value",
                    out_proj="dense",
                ),
            ),
            num_layers=_albert_layers,
            label=_albert_label,
            config=_BERT_CONFIG,
            biases=_WITH_BIAS,
        ),
    ),
    whole=designs.albert,
    supported=_ABSOLUTE,
)


def _is_rotary(settings: Settings, _layer: int) -> bool:
    return settings.get("position_embedding_type", str, "absolute") == "rotary"


_ESM_ABSOLUTE = replace(
    _BERT_LOCATIONS[0],
    num_layers=integer("num_hidden_layers", 12),
    exists=lambda settings, layer: not _is_rotary(settings, layer),
)
_ESM_ROTARY = replace(
    _ESM_ABSOLUTE,
    rope=Rope(
        only_keys=("rope_theta",),
        stored="rotary_embeddings.inv_freq",
    ),
    exists=_is_rotary,
)
ESM = Family(
    model_types=("esm",),
    locations=(_ESM_ABSOLUTE, _ESM_ROTARY),
    whole=designs.esm,
    supported=MappingProxyType(
        {
            "position_embedding_type": ("absolute", "rotary"),
            "add_cross_attention": (False, None),
        }
    ),
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
    whole=designs.distilbert,
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
    whole=designs.modernbert,
)
