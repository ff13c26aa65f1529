"""Gemma 1 to 3 as whole models: scaled embeddings, and norms on both sides; and gpt-oss."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, NoReturn

from polyhead_models.checkpoint.designs.design import (
    Layers,
    Residual,
    StackDesign,
    TokenEmbeddings,
)
from polyhead_models.checkpoint.designs.llama import gated, sequential
from polyhead_models.checkpoint.designs.parts import decoder, rms_norm, words
from polyhead_models.checkpoint.files import CheckpointError

if TYPE_CHECKING:
    from polyhead_models.checkpoint.families.settings import Settings

__all__ = ["gemma", "gemma2", "gpt_oss"]


def _words(settings: Settings) -> TokenEmbeddings:
    return replace(words(settings, is_tied=True), scale=settings.count("hidden_size") ** 0.5)


def gemma(settings: Settings) -> tuple[StackDesign, ...]:
    """Describe Gemma 1."""
    norm = rms_norm(settings, is_less_one=True)
    activation = settings.get("hidden_act", str, "gelu_pytorch_tanh")
    # the first files say gelu, and mean its approximation
    activation = "gelu_pytorch_tanh" if activation == "gelu" else activation
    return decoder(sequential(norm, gated(settings, activation)), norm("norm"), _words(settings))


def gemma2(settings: Settings) -> tuple[StackDesign, ...]:
    """Describe Gemma 2 and Gemma 3."""
    norm = rms_norm(settings, is_less_one=True)
    attention, feed_forward = (
        Residual(
            before=norm(f"layers.{{layer}}.{before}_layernorm"),
            after=norm(f"layers.{{layer}}.{after}_layernorm"),
        )
        for before, after in (
            ("input", "post_attention"),
            ("pre_feedforward", "post_feedforward"),
        )
    )
    layers = Layers(
        attention=attention,
        feed_forward=gated(settings, settings.get("hidden_activation", str, "gelu_pytorch_tanh")),
        feed_forward_step=feed_forward,
    )
    return decoder(layers, norm("norm"), _words(settings))


def gpt_oss(_settings: Settings) -> NoReturn:
    """Refuse gpt-oss."""
    raise CheckpointError(
        "gpt_oss is a mixture of experts, which is supported layer by layer only: choose --layer "
        "or --all-layers of 'polyhead export checkpoint'"
    )
