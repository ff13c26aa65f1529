"""GPT-2 and models between it and Llama as whole models."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from polyhead_models.checkpoint.designs.design import (
    FeedForward,
    Layers,
    Norm,
    Residual,
    StackDesign,
)
from polyhead_models.checkpoint.designs.parts import decoder, layer_norm, size, words

if TYPE_CHECKING:
    from polyhead_models.checkpoint.families.settings import Settings

__all__ = ["bloom", "falcon", "gpt2", "gpt_neox", "gptj", "mpt", "opt"]


def _four_times(settings: Settings, key: str, width: str) -> int:
    """Read the width of a feed-forward network, by default four times the hidden states' width."""
    return size(settings, key) or 4 * settings.count(width)


def gpt2(settings: Settings) -> tuple[StackDesign, ...]:
    """Describe GPT-2."""
    norm = layer_norm(settings, "layer_norm_epsilon")
    layers = Layers(
        attention=Residual(before=norm("h.{layer}.ln_1")),
        cross_attention=Residual(before=norm("h.{layer}.ln_cross_attn")),
        feed_forward=FeedForward(
            up="h.{layer}.mlp.c_fc",
            down="h.{layer}.mlp.c_proj",
            activation=settings.get("activation_function", str, "gelu_new"),
            width=_four_times(settings, "n_inner", "n_embd"),
            is_transposed=True,
        ),
        feed_forward_step=Residual(before=norm("h.{layer}.ln_2")),
    )
    embeddings = words(settings, "wte", is_tied=True)
    positions = size(settings, "n_positions")
    return decoder(
        layers, norm("ln_f"), replace(embeddings, positions="wpe", num_positions=positions)
    )


def gptj(settings: Settings) -> tuple[StackDesign, ...]:
    """Describe GPT-J, whose network is beside attention, after the same norm."""
    norm = layer_norm(settings, "layer_norm_epsilon")
    layers = Layers(
        attention=Residual(before=norm("h.{layer}.ln_1")),
        feed_forward=FeedForward(
            up="h.{layer}.mlp.fc_in",
            down="h.{layer}.mlp.fc_out",
            activation=settings.get("activation_function", str, "gelu_new"),
            width=_four_times(settings, "n_inner", "n_embd"),
        ),
        feed_forward_step=Residual(),
        is_parallel=True,
    )
    return decoder(layers, norm("ln_f"), words(settings, "wte", length="n_positions"))


def gpt_neox(settings: Settings) -> tuple[StackDesign, ...]:
    """Describe GPT-NeoX, in either of its forms."""
    norm = layer_norm(settings)
    layers = Layers(
        attention=Residual(before=norm("layers.{layer}.input_layernorm")),
        feed_forward=FeedForward(
            up="layers.{layer}.mlp.dense_h_to_4h",
            down="layers.{layer}.mlp.dense_4h_to_h",
            activation=settings.get("hidden_act", str, "gelu"),
            width=size(settings, "intermediate_size"),
        ),
        feed_forward_step=Residual(before=norm("layers.{layer}.post_attention_layernorm")),
        is_parallel=settings.get("use_parallel_residual", bool, default=True),
    )
    return decoder(layers, norm("final_layer_norm"), words(settings, "embed_in"))


def opt(settings: Settings) -> tuple[StackDesign, ...]:
    """Describe OPT, in either of its forms."""
    width = settings.count("hidden_size")
    has_weights = settings.get("layer_norm_elementwise_affine", bool, default=True)

    def norm(name: str) -> Norm:
        return Norm(name=name, eps=1e-5, width=0 if has_weights else width)

    def step(name: str) -> Residual:
        return Residual(before=norm(name)) if is_before else Residual(joined=norm(name))

    is_before = settings.get("do_layer_norm_before", bool, default=True)
    has_final = is_before and not settings.get("_remove_final_layer_norm", bool, default=False)
    word_width = settings.count("word_embed_proj_dim", width, null=width)
    is_projected = word_width != width
    positions = size(settings, "max_position_embeddings")
    return (
        StackDesign(
            stack="decoder",
            embeddings=replace(
                words(settings, "decoder.embed_tokens", is_tied=True),
                width=word_width,
                word_projection="decoder.project_in" if is_projected else "",
                positions="decoder.embed_positions",
                num_positions=positions and positions + 2,
                first_position=2,
            ),
            layers=Layers(
                attention=step("decoder.layers.{layer}.self_attn_layer_norm"),
                feed_forward=FeedForward(
                    up="decoder.layers.{layer}.fc1",
                    down="decoder.layers.{layer}.fc2",
                    activation=settings.get("activation_function", str, "relu"),
                    width=size(settings, "ffn_dim"),
                    has_bias=settings.get("enable_bias", bool, default=True),
                ),
                feed_forward_step=step("decoder.layers.{layer}.final_layer_norm"),
            ),
            final=norm("decoder.final_layer_norm") if has_final else None,
            projection="decoder.project_out" if is_projected else "",
        ),
    )


def bloom(settings: Settings) -> tuple[StackDesign, ...]:
    """Describe BLOOM."""
    norm = layer_norm(settings, "layer_norm_epsilon")
    key = "apply_residual_connection_post_layernorm"
    layers = Layers(
        attention=Residual(before=norm("h.{layer}.input_layernorm")),
        feed_forward=FeedForward(
            up="h.{layer}.mlp.dense_h_to_4h",
            down="h.{layer}.mlp.dense_4h_to_h",
            activation="gelu_new",
            width=4 * settings.count("hidden_size"),
        ),
        feed_forward_step=Residual(before=norm("h.{layer}.post_attention_layernorm")),
        adds_to_normed=settings.get(key, bool, default=False),
    )
    embeddings = words(settings, "word_embeddings", is_tied=True, length="seq_length")
    return decoder(
        layers,
        norm("ln_f"),
        replace(embeddings, norm=norm("word_embeddings_layernorm")),
    )


def mpt(settings: Settings) -> tuple[StackDesign, ...]:
    """Describe MPT, which has no biases."""
    norm = layer_norm(settings, "layer_norm_epsilon", has_bias=False)
    layers = Layers(
        attention=Residual(before=norm("blocks.{layer}.norm_1")),
        feed_forward=FeedForward(
            up="blocks.{layer}.ffn.up_proj",
            down="blocks.{layer}.ffn.down_proj",
            activation="gelu",
            width=4 * settings.count("d_model"),
            has_bias=False,
        ),
        feed_forward_step=Residual(before=norm("blocks.{layer}.norm_2")),
    )
    embeddings = words(settings, "wte", is_tied=True, length="max_seq_len")
    return decoder(layers, norm("norm_f"), embeddings)


def falcon(settings: Settings) -> tuple[StackDesign, ...]:
    """Describe Falcon: one norm or two, and a network beside attention or after it."""
    norm = layer_norm(settings, "layer_norm_epsilon")
    is_new = settings.get("new_decoder_architecture", bool, default=False, null=False)
    is_parallel = is_new or settings.get("parallel_attn", bool, default=True, null=False)
    names = ["input_layernorm"] if is_parallel else ["input_layernorm", "post_attention_layernorm"]
    if is_new and settings.count("num_ln_in_parallel_attn", 2, null=2) == 2:
        names = ["ln_attn", "ln_mlp"]
    attention, *network = (Residual(before=norm(f"h.{{layer}}.{name}")) for name in names)
    layers = Layers(
        attention=attention,
        feed_forward=FeedForward(
            up="h.{layer}.mlp.dense_h_to_4h",
            down="h.{layer}.mlp.dense_4h_to_h",
            activation=settings.get("activation", str, "gelu"),
            width=_four_times(settings, "ffn_hidden_size", "hidden_size"),
            has_bias=settings.get("bias", bool, default=False, null=False),
        ),
        feed_forward_step=network[0] if network else Residual(),
        is_parallel=is_parallel,
    )
    return decoder(layers, norm("ln_f"), words(settings, "word_embeddings", is_tied=True))
