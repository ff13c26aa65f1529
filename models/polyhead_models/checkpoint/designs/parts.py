"""Parts that the designs of many decoders share."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias

from polyhead_models.checkpoint.designs.design import Layers, Norm, StackDesign, TokenEmbeddings

if TYPE_CHECKING:
    from polyhead_models.checkpoint.families.settings import Settings

__all__ = ["NormKind", "decoder", "layer_norm", "rms_norm", "size", "words"]

NormKind: TypeAlias = Callable[[str], Norm]
"""Makes the norm of a name."""


def size(settings: Settings, key: str) -> int:
    """Read the size of a table or a network; 0: config.json does not state it."""
    return settings.count(key, 0, 0)


def layer_norm(
    settings: Settings, key: str = "layer_norm_eps", *, has_bias: bool = True
) -> NormKind:
    """Make LayerNorms. ``key``: the key of epsilon in config.json."""
    eps = settings.positive(key, 1e-5)
    return lambda name: Norm(name=name, eps=eps, has_bias=has_bias)


def rms_norm(settings: Settings, default: float = 1e-6, *, is_less_one: bool = False) -> NormKind:
    """Make RMSNorms; ``default`` is the epsilon of files without one."""
    eps = settings.positive("rms_norm_eps", default)
    return lambda name: Norm(name=name, eps=eps, is_rms=True, is_less_one=is_less_one)


def words(
    settings: Settings,
    name: str = "embed_tokens",
    *,
    is_tied: bool = False,
    length: str = "max_position_embeddings",
) -> TokenEmbeddings:
    """Describe embeddings without positions; ``is_tied`` is the default of tie_word_embeddings.

    A table that is also the last layer's may be saved under that one's name only. ``length`` is the
    key of the longest sequence.
    """
    is_tied = settings.get("tie_word_embeddings", bool, is_tied)
    return TokenEmbeddings(
        words=(name, "lm_head", "embed_out") if is_tied else (name,),
        vocab_size=size(settings, "vocab_size"),
        trained_length=size(settings, length),
    )


def decoder(
    layers: Layers, final: Norm | None, embeddings: TokenEmbeddings
) -> tuple[StackDesign, ...]:
    """Describe a model that consists of one decoder."""
    return (StackDesign(stack="decoder", embeddings=embeddings, layers=layers, final=final),)
