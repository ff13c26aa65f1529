"""Whole models that read a whole sequence of words, or of amino acids, at once."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from polyhead_models.checkpoint.designs.design import (
    FeedForward,
    Layers,
    Norm,
    Residual,
    StackDesign,
    TokenEmbeddings,
)
from polyhead_models.checkpoint.designs.parts import size

if TYPE_CHECKING:
    from polyhead_models.checkpoint.families.settings import Settings

__all__ = ["albert", "bert", "distilbert", "electra", "esm", "modernbert", "mpnet", "roberta"]

_LAYER = "encoder.layer.{layer}"
_TYPES = "embeddings.token_type_embeddings"


def _embeddings(settings: Settings, eps: float) -> TokenEmbeddings:
    """Describe BERT's embeddings, without types."""
    return TokenEmbeddings(
        words=("embeddings.word_embeddings",),
        vocab_size=size(settings, "vocab_size"),
        positions="embeddings.position_embeddings",
        num_positions=size(settings, "max_position_embeddings"),
        norm=Norm(name="embeddings.LayerNorm", eps=eps),
    )


def _with_types(settings: Settings, embeddings: TokenEmbeddings) -> TokenEmbeddings:
    return replace(embeddings, types=_TYPES, num_types=size(settings, "type_vocab_size"))


def _eps(settings: Settings) -> float:
    return settings.get("layer_norm_eps", float, 1e-12)


def _layers(settings: Settings, attention_norm: str) -> Layers:
    """Describe BERT's layers, which norm the result of each residual step."""
    eps = _eps(settings)
    return Layers(
        attention=Residual(joined=Norm(name=f"{_LAYER}.{attention_norm}", eps=eps)),
        feed_forward=FeedForward(
            up=f"{_LAYER}.intermediate.dense",
            down=f"{_LAYER}.output.dense",
            activation=settings.get("hidden_act", str, "gelu"),
            width=size(settings, "intermediate_size"),
        ),
        feed_forward_step=Residual(joined=Norm(name=f"{_LAYER}.output.LayerNorm", eps=eps)),
    )


def bert(
    settings: Settings, *, padding_id: int = -1, width: int = 0, projection: str = ""
) -> tuple[StackDesign, ...]:
    """Describe BERT. ``width``: the width of the words, if they are projected."""
    eps = _eps(settings)
    cross_norm = Norm(name=f"{_LAYER}.crossattention.output.LayerNorm", eps=eps)
    return (
        StackDesign(
            stack="encoder",
            embeddings=replace(
                _with_types(settings, _embeddings(settings, eps)),
                padding_id=padding_id,
                width=width,
                projection=projection,
            ),
            layers=replace(
                _layers(settings, "attention.output.LayerNorm"),
                cross_attention=Residual(joined=cross_norm),
            ),
        ),
    )


def electra(settings: Settings) -> tuple[StackDesign, ...]:
    """Describe ELECTRA, whose embeddings may be narrower than its layers."""
    width = settings.count("embedding_size", 128)
    is_equal = width == settings.count("hidden_size", 256)
    return bert(settings, width=width, projection="" if is_equal else "embeddings_project")


def roberta(settings: Settings) -> tuple[StackDesign, ...]:
    """Describe RoBERTa, whose positions count the tokens that are not padding."""
    return bert(settings, padding_id=settings.get("pad_token_id", int, 1))


def mpnet(settings: Settings) -> tuple[StackDesign, ...]:
    """Describe MPNet, whose padding is 1 whatever config.json says."""
    return (
        StackDesign(
            stack="encoder",
            embeddings=replace(_embeddings(settings, _eps(settings)), padding_id=1),
            layers=_layers(settings, "attention.LayerNorm"),
        ),
    )


def distilbert(settings: Settings) -> tuple[StackDesign, ...]:
    """Describe DistilBERT."""
    layer = "transformer.layer.{layer}"
    return (
        StackDesign(
            stack="encoder",
            embeddings=_embeddings(settings, 1e-12),
            layers=Layers(
                attention=Residual(joined=Norm(name=f"{layer}.sa_layer_norm", eps=1e-12)),
                feed_forward=FeedForward(
                    up=f"{layer}.ffn.lin1",
                    down=f"{layer}.ffn.lin2",
                    activation=settings.get("activation", str, "gelu"),
                    width=size(settings, "hidden_dim"),
                ),
                feed_forward_step=Residual(
                    joined=Norm(name=f"{layer}.output_layer_norm", eps=1e-12)
                ),
            ),
        ),
    )


def albert(settings: Settings) -> tuple[StackDesign, ...]:
    """Describe ALBERT, some of whose layers share their weights."""
    layer = "encoder.albert_layer_groups.{layer}"
    eps = _eps(settings)
    return (
        StackDesign(
            stack="encoder",
            embeddings=replace(
                _with_types(settings, _embeddings(settings, eps)),
                width=settings.count("embedding_size", 128),
                projection="encoder.embedding_hidden_mapping_in",
            ),
            layers=Layers(
                attention=Residual(joined=Norm(name=f"{layer}.attention.LayerNorm", eps=eps)),
                feed_forward=FeedForward(
                    up=f"{layer}.ffn",
                    down=f"{layer}.ffn_output",
                    activation=settings.get("hidden_act", str, "gelu_new"),
                    width=size(settings, "intermediate_size"),
                ),
                feed_forward_step=Residual(
                    joined=Norm(name=f"{layer}.full_layer_layer_norm", eps=eps)
                ),
            ),
        ),
    )


def modernbert(settings: Settings) -> tuple[StackDesign, ...]:
    """Describe ModernBERT, whose first layer has no norm before its attention."""
    eps = settings.get("norm_eps", float, 1e-5)
    has_bias = settings.get("norm_bias", bool, default=False)
    layer = "layers.{layer}"

    def norm(name: str) -> Norm:
        return Norm(name=name, eps=eps, has_bias=has_bias)

    return (
        StackDesign(
            stack="encoder",
            embeddings=TokenEmbeddings(
                words=("embeddings.tok_embeddings",),
                vocab_size=size(settings, "vocab_size"),
                norm=norm("embeddings.norm"),
                trained_length=size(settings, "max_position_embeddings"),
            ),
            layers=Layers(
                attention=Residual(
                    before=replace(norm(f"{layer}.attn_norm"), skips_first_layer=True)
                ),
                feed_forward=FeedForward(
                    up=f"{layer}.mlp.Wi",
                    down=f"{layer}.mlp.Wo",
                    activation=settings.get("hidden_activation", str, "gelu"),
                    width=size(settings, "intermediate_size"),
                    has_bias=settings.get("mlp_bias", bool, default=False),
                    is_fused=True,
                ),
                feed_forward_step=Residual(before=norm(f"{layer}.mlp_norm")),
            ),
            final=norm("final_norm"),
        ),
    )


def esm(settings: Settings) -> tuple[StackDesign, ...]:
    """Describe ESM-2 and ESM-1b, which make up for masked tokens."""
    eps = _eps(settings)

    def flag(key: str) -> bool:
        return settings.get(key, bool, default=False, null=False)

    is_rotary = settings.get("position_embedding_type", str, "absolute") == "rotary"
    has_norm = flag("emb_layer_norm_before")
    positions = size(settings, "max_position_embeddings")
    return (
        StackDesign(
            stack="encoder",
            embeddings=TokenEmbeddings(
                words=("embeddings.word_embeddings",),
                vocab_size=size(settings, "vocab_size"),
                positions="" if is_rotary else "embeddings.position_embeddings",
                num_positions=positions,
                trained_length=positions,
                padding_id=settings.get("pad_token_id", int, -1, -1),
                mask_id=settings.get("mask_token_id", int, -1, -1) if flag("token_dropout") else -1,
                norm=Norm(name="embeddings.layer_norm", eps=eps) if has_norm else None,
            ),
            layers=Layers(
                attention=Residual(before=Norm(name=f"{_LAYER}.attention.LayerNorm", eps=eps)),
                feed_forward=FeedForward(
                    up=f"{_LAYER}.intermediate.dense",
                    down=f"{_LAYER}.output.dense",
                    activation="gelu",
                    width=size(settings, "intermediate_size"),
                ),
                feed_forward_step=Residual(before=Norm(name=f"{_LAYER}.LayerNorm", eps=eps)),
            ),
            final=Norm(name="encoder.emb_layer_norm_after", eps=eps),
        ),
    )
