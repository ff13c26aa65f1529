"""Whole models of images, and the towers of text beside them."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from polyhead_models.checkpoint.designs.design import (
    FeedForward,
    Layers,
    Norm,
    PatchEmbeddings,
    Residual,
    StackDesign,
    TokenEmbeddings,
)
from polyhead_models.checkpoint.designs.parts import size

if TYPE_CHECKING:
    from polyhead_models.checkpoint.families.settings import Settings

__all__ = [
    "CLIP_TEXT_KEYS",
    "CLIP_VISION_KEYS",
    "TEXT_KEYS",
    "VISION_KEYS",
    "clip",
    "clip_text",
    "clip_vision",
    "deit",
    "dinov2",
    "dinov2_with_registers",
    "siglip",
    "siglip_text",
    "siglip_vision",
    "vit",
]

# --- ViT and DINOv2

_CONVOLUTION = "embeddings.patch_embeddings.projection"


def vit(settings: Settings, *tokens: str) -> tuple[StackDesign, ...]:
    """Describe ViT."""
    eps = settings.get("layer_norm_eps", float, 1e-12)
    layer = "layers.{layer}"
    return (
        StackDesign(
            stack="encoder",
            embeddings=_patches(settings, _CONVOLUTION, 16, "embeddings.cls_token", *tokens),
            layers=Layers(
                attention=Residual(before=Norm(name=f"{layer}.layernorm_before", eps=eps)),
                feed_forward=_mlp(settings, layer, "gelu"),
                feed_forward_step=Residual(before=Norm(name=f"{layer}.layernorm_after", eps=eps)),
            ),
            final=Norm(name="layernorm", eps=eps),
            older=(
                ("layers.", "encoder.layer."),
                ("mlp.fc1", "intermediate.dense"),
                ("mlp.fc2", "output.dense"),
            ),
        ),
    )


def deit(settings: Settings) -> tuple[StackDesign, ...]:
    """Describe DeiT, whose second token is the distillation token."""
    return vit(settings, "embeddings.distillation_token")


def dinov2(
    settings: Settings, *, patch_size: int = 14, stretch: str = "cubic", registers: str = ""
) -> tuple[StackDesign, ...]:
    """Describe DINOv2, whose residual steps are scaled, and whose images may have any size."""
    eps = settings.get("layer_norm_eps", float, 1e-6)
    layer = "encoder.layer.{layer}"
    width = int(settings.count("hidden_size") * settings.positive("mlp_ratio", 4.0))
    mlp = replace(_mlp(settings, layer, "gelu"), width=width)
    if settings.get("use_swiglu_ffn", bool, default=False):
        mlp = FeedForward(
            gate=f"{layer}.mlp.gate_proj",
            up=f"{layer}.mlp.up_proj",
            down=f"{layer}.mlp.down_proj",
            activation="silu",
            width=(int(width * 2 / 3) + 7) // 8 * 8,
        )

    embeddings = _patches(
        settings,
        _CONVOLUTION,
        patch_size,
        "embeddings.cls_token",
        stretch=stretch,
        registers=registers,
    )
    if embeddings.stretched_grid != embeddings.grid and len({*embeddings.patch_size}) > 1:
        raise settings.error(
            "patch_size",
            "transformers takes the positions of such patches for a square in images of all sizes "
            "but one; only square patches are supported here",
        )

    def step(number: int) -> Residual:
        return Residual(
            before=Norm(name=f"{layer}.norm{number}", eps=eps),
            scale=f"{layer}.layer_scale{number}.lambda1",
        )

    return (
        StackDesign(
            stack="encoder",
            embeddings=embeddings,
            layers=Layers(attention=step(1), feed_forward=mlp, feed_forward_step=step(2)),
            final=Norm(name="layernorm", eps=eps),
            older=(
                ("mlp.gate_proj", "mlp.weights_in"),
                ("mlp.up_proj", "mlp.weights_in"),
                ("mlp.down_proj", "mlp.weights_out"),
            ),
        ),
    )


def dinov2_with_registers(settings: Settings) -> tuple[StackDesign, ...]:
    """Describe DINOv2 with registers."""
    return dinov2(
        settings,
        patch_size=16,
        stretch="antialiased",
        registers="embeddings.register_tokens",
    )


def _pair(settings: Settings, key: str, default: int) -> tuple[int, int]:
    """Read height and width, which may be given as one number. Raises CheckpointError."""
    value = settings.values.get(key, default)
    sizes = (value, value) if type(value) is int else tuple(value) if type(value) is list else ()
    if len(sizes) != 2 or not all(type(size) is int and size > 0 for size in sizes):
        raise settings.error(key, "expected a number of pixels, or height and width")
    return sizes


def _patches(
    settings: Settings,
    convolution: str,
    patch_size: int,
    *tokens: str,
    positions: str = "embeddings.position_embeddings",
    stretch: str = "",
    registers: str = "",
    norm: Norm | None = None,
    has_bias: bool = True,
) -> PatchEmbeddings:
    return PatchEmbeddings(
        convolution=convolution,
        has_bias=has_bias,
        channels=settings.count("num_channels", 3),
        image_size=_pair(settings, "image_size", 224),
        patch_size=_pair(settings, "patch_size", patch_size),
        tokens=tokens,
        positions=positions,
        stretch=stretch,
        registers=registers,
        num_registers=settings.count("num_register_tokens", 4, minimum=0) if registers else 0,
        norm=norm,
    )


def _mlp(settings: Settings, layer: str, activation: str) -> FeedForward:
    return FeedForward(
        up=f"{layer}.mlp.fc1",
        down=f"{layer}.mlp.fc2",
        activation=settings.get("hidden_act", str, activation),
        width=size(settings, "intermediate_size"),
    )


# --- CLIP and SigLIP

TEXT_KEYS, VISION_KEYS = ("text_config",), ("vision_config",)
# CLIP's old files have both objects; transformers reads this one and its defaults
CLIP_TEXT_KEYS = ("text_config_dict", *TEXT_KEYS)
CLIP_VISION_KEYS = ("vision_config_dict", *VISION_KEYS)


def _tower(
    settings: Settings,
    embeddings: TokenEmbeddings | PatchEmbeddings,
    final: str,
    *,
    activation: str,
    eps: float,
) -> tuple[StackDesign, ...]:
    eps = settings.get("layer_norm_eps", float, eps)
    stack = "text" if isinstance(embeddings, TokenEmbeddings) else "vision"
    layer = f"{stack}_model.encoder.layers.{{layer}}"

    def step(number: int) -> Residual:
        return Residual(before=Norm(name=f"{layer}.layer_norm{number}", eps=eps))

    return (
        StackDesign(
            stack=stack,
            embeddings=embeddings,
            layers=Layers(
                attention=step(1),
                feed_forward=_mlp(settings, layer, activation),
                feed_forward_step=step(2),
            ),
            final=Norm(name=f"{stack}_model.{final}", eps=eps) if final else None,
            # a tower that was saved alone may have no such module
            older=((f"{stack}_model.", ""),),
        ),
    )


def _text(settings: Settings) -> TokenEmbeddings:
    return TokenEmbeddings(
        words=("text_model.embeddings.token_embedding",),
        vocab_size=size(settings, "vocab_size"),
        positions="text_model.embeddings.position_embedding",
        num_positions=size(settings, "max_position_embeddings"),
    )


def clip_text(settings: Settings) -> tuple[StackDesign, ...]:
    """Describe CLIP's tower of text."""
    return _tower(settings, _text(settings), "final_layer_norm", activation="quick_gelu", eps=1e-5)


def siglip_text(settings: Settings) -> tuple[StackDesign, ...]:
    """Describe SigLIP's tower of text."""
    return _tower(
        settings, _text(settings), "final_layer_norm", activation="gelu_pytorch_tanh", eps=1e-6
    )


def clip_vision(settings: Settings) -> tuple[StackDesign, ...]:
    """Describe CLIP's tower of images, whose output transformers does not norm."""
    eps = settings.get("layer_norm_eps", float, 1e-5)
    embeddings = _patches(
        settings,
        "vision_model.embeddings.patch_embedding",
        32,
        "vision_model.embeddings.class_embedding",
        positions="vision_model.embeddings.position_embedding",
        norm=Norm(name="vision_model.pre_layrnorm", eps=eps),
        has_bias=False,
    )
    return _tower(settings, embeddings, "", activation="quick_gelu", eps=eps)


def siglip_vision(settings: Settings) -> tuple[StackDesign, ...]:
    """Describe SigLIP's tower of images, which has no class token."""
    embeddings = _patches(
        settings,
        "vision_model.embeddings.patch_embedding",
        16,
        positions="vision_model.embeddings.position_embedding",
    )
    return _tower(settings, embeddings, "post_layernorm", activation="gelu_pytorch_tanh", eps=1e-6)


def clip(settings: Settings) -> tuple[StackDesign, ...]:
    """Describe CLIP's towers, which stand beside each other."""
    return (
        *clip_text(settings.part(CLIP_TEXT_KEYS)),
        *clip_vision(settings.part(CLIP_VISION_KEYS)),
    )


def siglip(settings: Settings) -> tuple[StackDesign, ...]:
    """Describe SigLIP's towers."""
    return (
        *siglip_text(settings.part(TEXT_KEYS)),
        *siglip_vision(settings.part(VISION_KEYS)),
    )
