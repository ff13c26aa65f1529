"""Describes a checkpoint's layers for `polyhead inspect`, without reading their weights."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from polyhead.cli.traits import special_traits, visibility
from polyhead_models.checkpoint.files import FLOAT_DTYPES, CheckpointError
from polyhead_models.checkpoint.whole_tensors import find_whole
from polyhead_models.store import TOKENIZER_FILE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from polyhead_models.checkpoint.checkpoint import Checkpoint
    from polyhead_models.checkpoint.families.family import AttentionLocation

__all__ = ["LayerFacts", "WholeModelFacts", "inspect_layers", "inspect_whole_model"]


@dataclass(frozen=True, kw_only=True)
class LayerFacts:
    """One attention block that can be exported."""

    stack: str
    kind: str
    layer: int
    embed_dim: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    num_parameters: int
    """Number of weights and biases."""
    num_bytes: int
    """Size of the weights and biases in the checkpoint."""
    dtypes: tuple[str, ...]
    """Types of the stored weights and biases, such as BF16."""
    traits: tuple[str, ...]
    """Properties of its mathematics, in words."""


@dataclass(frozen=True, kw_only=True)
class WholeModelFacts:
    """Whether the whole model can be exported."""

    num_layers: int = 0
    has_tokenizer: bool = False
    problem: str = ""
    """Why it cannot be exported."""

    def __str__(self) -> str:
        if self.problem:
            return f"no. {self.problem}"
        tokenizer = ", with its tokenizer" if self.has_tokenizer else ""
        return f"{self.num_layers} layers{tokenizer}; export it without --layer"


def inspect_whole_model(checkpoint: Checkpoint) -> WholeModelFacts:
    """Describe whether a checkpoint's whole model can be exported."""
    try:
        num_layers = checkpoint.count_layers()
        find_whole(checkpoint)
    except CheckpointError as error:
        return WholeModelFacts(problem=str(error))
    has_tokenizer = (checkpoint.folder / TOKENIZER_FILE).is_file()
    return WholeModelFacts(num_layers=num_layers, has_tokenizer=has_tokenizer)


def inspect_layers(checkpoint: Checkpoint) -> list[LayerFacts]:
    """List a checkpoint's attention blocks. Raises CheckpointError."""
    locations = checkpoint.saved_locations()
    return [fact for location in locations for fact in _layer_facts(checkpoint, location)]


def _layer_facts(checkpoint: Checkpoint, location: AttentionLocation) -> Iterator[LayerFacts]:
    for layer in range(checkpoint.num_layers(location)):
        config = checkpoint.config(location, layer)
        counts, sizes, dtypes = 0, 0, set()
        for part in checkpoint.parts(location, layer, config):
            dtype = checkpoint.tensors.dtype(part.tensor, part.shape)
            counts += math.prod(part.shape)
            sizes += math.prod(part.shape) * FLOAT_DTYPES[dtype]
            dtypes.add(dtype)
        yield LayerFacts(
            stack=location.stack,
            kind=location.kind,
            layer=layer,
            embed_dim=config.embed_dim,
            num_heads=config.num_heads,
            num_kv_heads=config.num_kv_heads,
            head_dim=config.head_dim,
            num_parameters=counts,
            num_bytes=sizes,
            dtypes=tuple(sorted(dtypes)),
            traits=(visibility(config), *special_traits(config)),
        )
