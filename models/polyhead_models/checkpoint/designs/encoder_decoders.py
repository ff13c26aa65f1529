"""Whole models with an encoder, and a decoder that attends to the encoder's output."""

from __future__ import annotations

from typing import TYPE_CHECKING

from polyhead_models.checkpoint.designs.design import (
    FeedForward,
    FrameEmbeddings,
    Layers,
    Norm,
    Residual,
    StackDesign,
    TokenEmbeddings,
)
from polyhead_models.checkpoint.designs.parts import size

if TYPE_CHECKING:
    from polyhead_models.checkpoint.families.settings import Settings

__all__ = ["bart", "mbart", "mt5", "t5", "whisper"]

_STACKS = ("encoder", "decoder")


def _words(settings: Settings, stack: str) -> tuple[str, ...]:
    """Name the table of words, which both stacks and the last layer may have in common."""
    names = (f"{stack}.embed_tokens", "shared", *(f"{other}.embed_tokens" for other in _STACKS))
    is_tied = settings.get("tie_word_embeddings", bool, default=True, null=False)
    return (*names, "lm_head") if is_tied else names


def _start(settings: Settings, stack: str, default: int) -> int:
    """Return the token id that a stack's sequences begin with; -1: none is stated.

    ``default``: what transformers takes where config.json has no such key.
    """
    if stack != "decoder":
        return -1
    return settings.count("decoder_start_token_id", default, null=-1, minimum=0)


# --- T5


_T5_PADDING = 0


def t5(settings: Settings, feed_forward: str = "relu") -> tuple[StackDesign, ...]:
    """Describe T5, in both forms of its feed-forward network."""
    eps = settings.get("layer_norm_epsilon", float, 1e-6)
    kind, _, activation = settings.get("feed_forward_proj", str, feed_forward).rpartition("-")
    is_gated = settings.get("is_gated_act", bool, kind == "gated", null=False)
    if kind and activation == "gelu":
        activation = "gelu_new"
    activation = settings.get("dense_act_fn", str, activation)

    def norm(name: str) -> Norm:
        return Norm(name=f"{name}layer_norm", eps=eps, is_rms=True)

    def stack(name: str) -> StackDesign:
        block = f"{name}.block.{{layer}}"
        last = f"{block}.layer.{_STACKS.index(name) + 1}"
        network = f"{last}.DenseReluDense"
        return StackDesign(
            stack=name,
            embeddings=TokenEmbeddings(
                words=_words(settings, name),
                vocab_size=size(settings, "vocab_size"),
                trained_length=size(settings, "n_positions"),
                start_token_id=_start(settings, name, _T5_PADDING),
            ),
            layers=Layers(
                attention=Residual(before=norm(f"{block}.layer.0.")),
                cross_attention=Residual(before=norm(f"{block}.layer.1.")),
                feed_forward=FeedForward(
                    gate=f"{network}.wi_0" if is_gated else "",
                    up=f"{network}.wi_1" if is_gated else f"{network}.wi",
                    down=f"{network}.wo",
                    activation=activation,
                    width=size(settings, "d_ff"),
                    has_bias=False,
                ),
                feed_forward_step=Residual(before=norm(f"{last}.")),
            ),
            final=norm(f"{name}.final_"),
        )

    return tuple(map(stack, _STACKS))


def mt5(settings: Settings) -> tuple[StackDesign, ...]:
    """Describe mT5."""
    return t5(settings, "gated-gelu")


# --- BART and Whisper

_EPS = 1e-5


def bart(
    settings: Settings, *, is_normed_before: bool = False, start_token_id: int = 2
) -> tuple[StackDesign, ...]:
    """Describe BART."""
    is_scaled = settings.get("scale_embedding", bool, default=False, null=False)
    positions = size(settings, "max_position_embeddings")

    def stack(name: str) -> StackDesign:
        return _stack(
            settings,
            name,
            TokenEmbeddings(
                words=_words(settings, name),
                vocab_size=size(settings, "vocab_size"),
                scale=settings.count("d_model") ** 0.5 if is_scaled else 1.0,
                positions=f"{name}.embed_positions",
                num_positions=positions and positions + 2,
                first_position=2,
                norm=Norm(name=f"{name}.layernorm_embedding", eps=_EPS),
                start_token_id=_start(settings, name, start_token_id),
            ),
            is_normed_before=is_normed_before,
        )

    return tuple(map(stack, _STACKS))


def mbart(settings: Settings) -> tuple[StackDesign, ...]:
    """Describe mBART, which norms the input of each residual step.

    Its sequences begin with the token of a language, which most files do not state.
    """
    return bart(settings, is_normed_before=True, start_token_id=-1)


def whisper(settings: Settings) -> tuple[StackDesign, ...]:
    """Describe Whisper; transformers' code does not scale its embeddings."""
    frames = FrameEmbeddings(
        convolutions=("encoder.conv1", "encoder.conv2"),
        bins=settings.count("num_mel_bins", 80),
        positions="encoder.embed_positions",
        num_positions=size(settings, "max_source_positions"),
    )
    tokens = TokenEmbeddings(
        words=("decoder.embed_tokens",),
        vocab_size=size(settings, "vocab_size"),
        positions="decoder.embed_positions",
        num_positions=size(settings, "max_target_positions"),
        start_token_id=_start(settings, "decoder", 50257),
    )
    return (
        _stack(settings, "encoder", frames, is_normed_before=True),
        _stack(settings, "decoder", tokens, is_normed_before=True),
    )


def _stack(
    settings: Settings,
    name: str,
    embeddings: TokenEmbeddings | FrameEmbeddings,
    *,
    is_normed_before: bool,
) -> StackDesign:
    layer = f"{name}.layers.{{layer}}"

    def step(norm_name: str) -> Residual:
        norm = Norm(name=f"{layer}.{norm_name}", eps=_EPS)
        return Residual(before=norm) if is_normed_before else Residual(joined=norm)

    return StackDesign(
        stack=name,
        embeddings=embeddings,
        layers=Layers(
            attention=step("self_attn_layer_norm"),
            cross_attention=step("encoder_attn_layer_norm"),
            feed_forward=FeedForward(
                up=f"{layer}.fc1",
                down=f"{layer}.fc2",
                activation=settings.get("activation_function", str, "gelu"),
                width=size(settings, f"{name}_ffn_dim"),
            ),
            feed_forward_step=step("final_layer_norm"),
        ),
        final=Norm(name=f"{name}.layer_norm", eps=_EPS) if is_normed_before else None,
    )
