"""What is known of a family of models: where its checkpoints keep attention, and what of."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from polyhead_models.checkpoint.families.settings import always

if TYPE_CHECKING:
    from collections.abc import Mapping

    from polyhead_models.checkpoint.families.rope import Rope
    from polyhead_models.checkpoint.families.settings import Rule

__all__ = ["ALL_FOUR", "FUSED", "QKV", "AttentionLocation", "Family", "TensorNames"]

QKV = ("q_proj", "k_proj", "v_proj")
ALL_FOUR = (*QKV, "out_proj")
FUSED = {"qkv_proj": QKV, "kv_proj": QKV[1:]}
"""Names of one tensor that holds several projections, their rows one below the other."""

ALWAYS_EXISTS = always(value=True)
FULL_ATTENTION = always("full_attention")
NO_WINDOW = always(0)


@dataclass(frozen=True, kw_only=True)
class TensorNames:
    """What one way of saving a model calls the tensors of an attention module."""

    module: str
    """Name of the module, with ``{layer}`` for the layer's number. In a file anything that ends in
    a dot may stand before it, such as ``bert.``."""
    q_proj: str = ""
    """Name, within the module, of the linear map that gives the queries."""
    k_proj: str = ""
    v_proj: str = ""
    qkv_proj: str = ""
    """Name of the one map that gives queries, keys and values, instead of three."""
    kv_proj: str = ""
    """Name of the one map that gives keys and values, instead of two."""
    out_proj: str
    q_norm: str = ""
    """Name of the RMSNorm of queries."""
    k_norm: str = ""
    sinks: str = ""
    """Name of the parameter itself."""
    relative_bias: str = ""
    """Name of the table of relative position biases: of the whole tensor, not within the module."""
    is_transposed: bool = False
    """Whether weights are (in_features, out_features), as in transformers' Conv1D."""
    is_by_group: bool = False
    """Whether qkv_proj holds a key head's queries, then that key, its value and the next key head's
    queries, and not all queries, all keys, all values."""
    is_norm_less_one: bool = False
    """Whether the norms' weights are stored less 1."""

    @property
    def query_tensor(self) -> str:
        """Name of a tensor by which these names are known: the module with the layer's query."""
        return f"{self.module}.{self.qkv_proj or self.q_proj}.weight"


@dataclass(frozen=True, kw_only=True)
class AttentionLocation:
    """Where a model's layers have attention, such as a decoder's cross-attention.

    ``config`` and the fields after it are rules that give the fields of the AttentionConfig.
    """

    stack: str
    """The layers it lies in: encoder, decoder, text or vision."""
    kind: str = "self"
    """self: queries, keys and values are made of the same embeddings; cross: keys and values of
    another stack's."""
    names: tuple[TensorNames, ...]
    """What its tensors are called; the first names that a checkpoint has are taken."""
    num_layers: Rule[int]
    config: Mapping[str, Rule[Any]]
    """Fields of AttentionConfig but for rotary and sliding_window."""
    biases: Mapping[str, Rule[bool]] = field(default_factory=dict)
    """Which projections have a bias; the others have none."""
    rope: Rope | None = None
    layer_type: Rule[str] = FULL_ATTENTION
    """full_attention or sliding_attention, as transformers calls them."""
    sliding_window: Rule[int] = NO_WINDOW
    """sliding_window of the layers of type sliding_attention."""
    settings: str = ""
    """The object in config.json that describes the stack, such as text_config."""
    exists: Rule[bool] = ALWAYS_EXISTS
    """Whether this model has it."""


@dataclass(frozen=True, kw_only=True)
class Family:
    """Models that keep their attention in the same locations."""

    model_types: tuple[str, ...]
    """Values of ``model_type`` in config.json."""
    locations: tuple[AttentionLocation, ...]
    supported: Mapping[str, tuple[object, ...]] = field(default_factory=dict)
    """Keys of config.json, with a dot for objects inside it, that must have one of these values if
    they are there: with another, the mathematics is not that of an AttentionBlock, or not known."""
