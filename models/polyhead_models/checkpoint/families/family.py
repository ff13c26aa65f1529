"""The description of a model family: the locations of attention in checkpoints, and variants."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from polyhead_models.checkpoint.families.settings import always, layer_number

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from polyhead_models.checkpoint.designs.design import StackDesign
    from polyhead_models.checkpoint.families.rope import Rope
    from polyhead_models.checkpoint.families.settings import Rule, Settings

    Whole = Callable[[Settings], tuple[StackDesign, ...]]

__all__ = [
    "ALL_FOUR",
    "FUSED",
    "QKV",
    "AttentionLocation",
    "Family",
    "TensorNames",
    "separate_names",
]

QKV = ("q_proj", "k_proj", "v_proj")
ALL_FOUR = (*QKV, "out_proj")
FUSED = {"qkv_proj": QKV, "kv_proj": QKV[1:]}
"""Tensors that hold several projections, one below the other, by name."""

ALWAYS_EXISTS = always(value=True)
FULL_ATTENTION = always("full_attention")
NO_WINDOW = always(0)


@dataclass(frozen=True, kw_only=True)
class TensorNames:
    """Names of an attention module's tensors in one way of saving a model."""

    module: str
    """Name of the module, with ``{layer}`` for the layer's number. In a file it may have a prefix
    that ends in a dot, such as ``bert.``."""
    q_proj: str = ""
    """Name, within the module, of the linear map of the queries."""
    k_proj: str = ""
    v_proj: str = ""
    qkv_proj: str = ""
    """Name of one linear map of queries, keys and values, instead of three."""
    kv_proj: str = ""
    """Name of one linear map of keys and values, instead of two."""
    out_proj: str
    q_norm: str = ""
    """Name of the RMSNorm of queries."""
    k_norm: str = ""
    sinks: str = ""
    """Name of the parameter with the sinks."""
    relative_bias: str = ""
    """Full name, not within the module, of the table of relative position biases."""
    is_transposed: bool = False
    """Whether weights are (in_features, out_features), as in transformers' Conv1D."""
    is_by_group: bool = False
    """Whether qkv_proj holds, for each head of keys in turn, its queries, its key and its value,
    instead of all queries, then all keys, then all values."""
    is_norm_less_one: bool = False
    """Whether the norms' weights are stored with 1 subtracted."""

    @property
    def query_tensor(self) -> str:
        """Name of the layer's tensor with the queries. A file that has it uses these names."""
        return f"{self.module}.{self.qkv_proj or self.q_proj}.weight"


def separate_names(module: str, out_proj: str = "out_proj") -> TensorNames:
    """Name a module's tensors q_proj, k_proj and v_proj, as many models do."""
    return TensorNames(
        module=module, q_proj="q_proj", k_proj="k_proj", v_proj="v_proj", out_proj=out_proj
    )


@dataclass(frozen=True, kw_only=True)
class AttentionLocation:
    """One kind of attention in a model's layers, such as a decoder's cross-attention.

    ``config`` and the fields after it are rules that give the fields of the AttentionConfig.
    """

    stack: str
    """The stack of layers: encoder, decoder, text or vision."""
    kind: str = "self"
    """self: queries, keys and values are computed from the same hidden states; cross: keys and
    values are computed from the output of another stack."""
    names: tuple[TensorNames, ...]
    """Possible names of the tensors. The first ones that a checkpoint has are used."""
    num_layers: Rule[int]
    config: Mapping[str, Rule[Any]]
    """Fields of AttentionConfig, except rotary and sliding_window."""
    biases: Mapping[str, Rule[bool]] = field(default_factory=dict)
    """Whether a projection has a bias, by its name. Projections without a rule have no bias."""
    rope: Rope | None = None
    layer_type: Rule[str] = FULL_ATTENTION
    """full_attention or sliding_attention, in the words of transformers."""
    sliding_window: Rule[int] = NO_WINDOW
    """Field sliding_window for layers of type sliding_attention."""
    settings: tuple[str, ...] = ()
    """Keys of the object in config.json that describes the stack, such as text_config. The first
    key that exists is read. Empty: the top level."""
    label: Rule[str] = layer_number
    """The text for ``{layer}`` in names. Layers with the same label share their weights."""
    exists: Rule[bool] = ALWAYS_EXISTS
    """Whether the model has this attention."""


@dataclass(frozen=True, kw_only=True)
class Family:
    """Models whose checkpoints hold attention at the same locations."""

    model_types: tuple[str, ...]
    """Values of ``model_type`` in config.json."""
    locations: tuple[AttentionLocation, ...]
    whole: Whole | None = None
    """Describes the stacks of the whole model; None means that only its blocks are supported."""
    aliases: Mapping[str, str] = field(default_factory=dict)
    """Other names of keys in config.json, with the names that the rules read, as in transformers'
    attribute_map."""
    supported: Mapping[str, tuple[object, ...]] = field(default_factory=dict)
    """Supported values of keys in config.json, with dots for nested objects. A key may be absent;
    with other values, the mathematics is unknown or not that of an AttentionBlock."""
