"""Llama and its successors as whole models: RMSNorms, gates, and parallel networks."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from polyhead_models.checkpoint.designs.design import (
    FeedForward,
    Layers,
    Residual,
    StackDesign,
)
from polyhead_models.checkpoint.designs.parts import (
    NormKind,
    decoder,
    layer_norm,
    rms_norm,
    size,
    words,
)

if TYPE_CHECKING:
    from polyhead_models.checkpoint.families.settings import Settings

__all__ = [
    "cohere",
    "gated",
    "granite",
    "llama",
    "mistral",
    "phi",
    "phi3",
    "sequential",
    "stablelm",
    "starcoder2",
]

_LAYER = "layers.{layer}"


def gated(settings: Settings, activation: str, *, has_bias: bool = False) -> FeedForward:
    """Describe a network with a gate."""
    return FeedForward(
        gate=f"{_LAYER}.mlp.gate_proj",
        up=f"{_LAYER}.mlp.up_proj",
        down=f"{_LAYER}.mlp.down_proj",
        activation=activation,
        width=size(settings, "intermediate_size"),
        has_bias=has_bias,
    )


def sequential(norm: NormKind, feed_forward: FeedForward, residual_scale: float = 1.0) -> Layers:
    """Describe layers with a norm before attention, and one before the network."""
    return Layers(
        attention=Residual(before=norm(f"{_LAYER}.input_layernorm")),
        feed_forward=feed_forward,
        feed_forward_step=Residual(before=norm(f"{_LAYER}.post_attention_layernorm")),
        residual_scale=residual_scale,
    )


def _parallel(norm: NormKind, feed_forward: FeedForward) -> Layers:
    """Describe layers with one norm, before attention and the network beside it."""
    return Layers(
        attention=Residual(before=norm(f"{_LAYER}.input_layernorm")),
        feed_forward=feed_forward,
        feed_forward_step=Residual(),
        is_parallel=True,
    )


def _hidden_act(settings: Settings, default: str = "silu") -> str:
    return settings.get("hidden_act", str, default)


def _has_mlp_bias(settings: Settings) -> bool:
    return settings.get("mlp_bias", bool, default=False)


def llama(settings: Settings) -> tuple[StackDesign, ...]:
    """Describe Llama."""
    return mistral(settings, has_bias=_has_mlp_bias(settings))


def mistral(settings: Settings, *, has_bias: bool = False) -> tuple[StackDesign, ...]:
    """Describe Mistral, Qwen2 and Qwen3, whose networks have no biases."""
    norm = rms_norm(settings)
    network = gated(settings, _hidden_act(settings), has_bias=has_bias)
    return decoder(sequential(norm, network), norm("norm"), words(settings))


def phi3(settings: Settings) -> tuple[StackDesign, ...]:
    """Describe Phi-3, whose gate and network begin with one map."""
    norm = rms_norm(settings, 1e-5)
    feed_forward = FeedForward(
        up=f"{_LAYER}.mlp.gate_up_proj",
        down=f"{_LAYER}.mlp.down_proj",
        activation=_hidden_act(settings),
        width=size(settings, "intermediate_size"),
        has_bias=False,
        is_fused=True,
    )
    return decoder(sequential(norm, feed_forward), norm("norm"), words(settings))


def granite(settings: Settings) -> tuple[StackDesign, ...]:
    """Describe Granite, a Llama with multipliers."""
    norm = rms_norm(settings)
    embeddings, residual = (
        settings.positive(f"{name}_multiplier", 1.0) for name in ("embedding", "residual")
    )
    network = gated(settings, _hidden_act(settings), has_bias=_has_mlp_bias(settings))
    layers = sequential(norm, network, residual)
    return decoder(layers, norm("norm"), replace(words(settings), scale=embeddings))


def cohere(settings: Settings) -> tuple[StackDesign, ...]:
    """Describe Cohere's Command R."""
    norm = layer_norm(settings, has_bias=False)
    layers = _parallel(norm, gated(settings, _hidden_act(settings)))
    return decoder(layers, norm("norm"), words(settings, is_tied=True))


def stablelm(settings: Settings) -> tuple[StackDesign, ...]:
    """Describe StableLM, in either of its forms."""
    norm = layer_norm(settings)
    is_parallel = settings.get("use_parallel_residual", bool, default=False)
    make_layers = _parallel if is_parallel else sequential
    layers = make_layers(norm, gated(settings, _hidden_act(settings)))
    return decoder(layers, norm("norm"), words(settings))


def phi(settings: Settings) -> tuple[StackDesign, ...]:
    """Describe Phi-1 to Phi-2."""
    norm = layer_norm(settings)
    feed_forward = FeedForward(
        up=f"{_LAYER}.mlp.fc1",
        down=f"{_LAYER}.mlp.fc2",
        activation=_hidden_act(settings, "gelu_new"),
        width=size(settings, "intermediate_size"),
    )
    return decoder(_parallel(norm, feed_forward), norm("final_layernorm"), words(settings))


def starcoder2(settings: Settings) -> tuple[StackDesign, ...]:
    """Describe StarCoder2."""
    norm = layer_norm(settings, "norm_epsilon")
    feed_forward = FeedForward(
        up=f"{_LAYER}.mlp.c_fc",
        down=f"{_LAYER}.mlp.c_proj",
        activation=_hidden_act(settings, "gelu_pytorch_tanh"),
        width=size(settings, "intermediate_size"),
        has_bias=settings.get("use_bias", bool, default=True),
    )
    return decoder(sequential(norm, feed_forward), norm("norm"), words(settings, is_tied=True))
