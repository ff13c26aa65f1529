"""The model families whose checkpoints can be imported: where each keeps its attention."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["FAMILIES", "Family"]


@dataclass(frozen=True, kw_only=True)
class Family:
    """Where checkpoints of one kind keep an attention block, and how their config.json names it."""

    model_types: tuple[str, ...]
    """Values of ``model_type`` in config.json."""
    module: str
    """Name of the attention module, with ``{layer}`` for the layer's number. In a file anything
    that ends in a dot may stand before it, such as ``bert.``."""
    projections: Mapping[str, str]
    """Name, within the module, of each linear map of an AttentionBlock."""
    embed_dim: str
    """Key of config.json that holds the width of the embeddings."""
    num_heads: str
    """Key of config.json that holds the number of heads."""
    num_layers: str
    """Key of config.json that holds the number of layers."""
    is_causal: str | None = None
    """Key of config.json that says whether the block is causal; None: it never is."""
    supported: Mapping[str, object] = field(default_factory=dict)
    """Keys of config.json that must have this value, if they are there: with another, the
    mathematics is not that of an AttentionBlock."""


BERT = Family(
    model_types=("bert", "roberta", "xlm-roberta", "camembert", "electra"),
    module="encoder.layer.{layer}.attention",
    projections=MappingProxyType(
        {
            "q_proj": "self.query",
            "k_proj": "self.key",
            "v_proj": "self.value",
            "out_proj": "output.dense",
        }
    ),
    embed_dim="hidden_size",
    num_heads="num_attention_heads",
    num_layers="num_hidden_layers",
    is_causal="is_decoder",
    supported=MappingProxyType({"position_embedding_type": "absolute"}),
)

DISTILBERT = Family(
    model_types=("distilbert",),
    module="transformer.layer.{layer}.attention",
    projections=MappingProxyType(
        {"q_proj": "q_lin", "k_proj": "k_lin", "v_proj": "v_lin", "out_proj": "out_lin"}
    ),
    embed_dim="dim",
    num_heads="n_heads",
    num_layers="n_layers",
)

FAMILIES: Mapping[str, Family] = MappingProxyType(
    {model_type: family for family in (BERT, DISTILBERT) for model_type in family.model_types}
)
"""Every family, by ``model_type``."""
