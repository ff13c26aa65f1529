"""Parts that the designs of many decoders share."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias

from polyhead_models.checkpoint.designs.design import Layers, Norm, StackDesign, TokenEmbeddings

if TYPE_CHECKING:
    from polyhead_models.checkpoint.families.settings import Settings

__all__ = ["NormKind", "decoder", "layer_norm", "rms_norm"]

NormKind: TypeAlias = Callable[[str], Norm]
"""Makes the norm of a name."""


def layer_norm(settings: Settings, key: str = "layer_norm_eps") -> NormKind:
    """Make LayerNorms; ``key`` is that of epsilon."""
    eps = settings.positive(key, 1e-5)
    return lambda name: Norm(name=name, eps=eps)


def rms_norm(settings: Settings, default: float = 1e-6, *, is_less_one: bool = False) -> NormKind:
    """Make RMSNorms; ``default`` is the epsilon of files without one."""
    eps = settings.positive("rms_norm_eps", default)
    return lambda name: Norm(name=name, eps=eps, is_rms=True, is_less_one=is_less_one)


def decoder(
    layers: Layers, final: Norm | None, embeddings: TokenEmbeddings
) -> tuple[StackDesign, ...]:
    """Describe a model that is one decoder."""
    return (StackDesign(stack="decoder", embeddings=embeddings, layers=layers, final=final),)
