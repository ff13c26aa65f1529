"""Whole models that read a whole sequence at once, of words or of image patches."""

from __future__ import annotations

from typing import TYPE_CHECKING

from polyhead_models.checkpoint.designs.design import (
    FeedForward,
    Layers,
    Norm,
    Residual,
    StackDesign,
    TokenEmbeddings,
)

if TYPE_CHECKING:
    from polyhead_models.checkpoint.families.settings import Settings

__all__ = ["bert", "roberta"]


def bert(settings: Settings, padding_id: int = -1) -> tuple[StackDesign, ...]:
    """Describe BERT and, with a projection of its embeddings, ELECTRA."""
    eps = settings.get("layer_norm_eps", float, 1e-12)
    layer = "encoder.layer.{layer}"

    def norm(name: str) -> Norm:
        return Norm(name=name, eps=eps)

    width = settings.get("embedding_size", int, 0)
    return (
        StackDesign(
            stack="encoder",
            embeddings=TokenEmbeddings(
                words=("embeddings.word_embeddings",),
                positions="embeddings.position_embeddings",
                padding_id=padding_id,
                types="embeddings.token_type_embeddings",
                norm=norm("embeddings.LayerNorm"),
                projection="embeddings_project"
                if width not in {0, settings.count("hidden_size")}
                else "",
            ),
            layers=Layers(
                attention=Residual(joined=norm(f"{layer}.attention.output.LayerNorm")),
                cross_attention=Residual(joined=norm(f"{layer}.crossattention.output.LayerNorm")),
                feed_forward=FeedForward(
                    up=f"{layer}.intermediate.dense",
                    down=f"{layer}.output.dense",
                    activation=settings.get("hidden_act", str, "gelu"),
                ),
                feed_forward_step=Residual(joined=norm(f"{layer}.output.LayerNorm")),
            ),
        ),
    )


def roberta(settings: Settings) -> tuple[StackDesign, ...]:
    """Describe RoBERTa, whose positions count the tokens that are not padding."""
    return bert(settings, padding_id=settings.get("pad_token_id", int, 1))
