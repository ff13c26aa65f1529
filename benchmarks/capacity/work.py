"""The calls whose capacity is computed, and the places of their costs in RESULTS.md."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["WORK", "Work"]

FLOAT = 4
"""Bytes of a float32."""


@dataclass(frozen=True)
class Work:
    """A call, and the place of its costs in RESULTS.md."""

    name: str
    section: str
    row: str
    """The beginning of the row."""
    column: int
    bytes_in: int
    bytes_out: int


def embeddings(tokens: int, width: int) -> int:
    """Return the bytes of a sequence's embeddings."""
    return tokens * width * FLOAT


def all_weights(layers: int, heads: int, tokens: int) -> int:
    """Return the bytes of all attention weights: layers x heads x tokens x tokens."""
    return layers * heads * tokens**2 * FLOAT


MINILM_LAYERS, MINILM_HEADS, MINILM_WIDTH = 6, 12, 384
WORK = (
    Work(
        "block, 10 x 6, weights",
        "limits",
        "10 tokens x 6, weights; 16 in flight | polyhead",
        2,
        embeddings(10, 6),
        embeddings(10, 6) + all_weights(1, 2, 10),
    ),
    Work(
        "block, 128 x 768",
        "limits",
        "128 x 768, 12 heads; 8 in flight | polyhead",
        2,
        embeddings(128, 768),
        embeddings(128, 768),
    ),
    Work(
        "block, 512 x 768, all weights",
        "limits",
        "512 x 768, 12 heads, weights; 2 in flight | polyhead",
        2,
        embeddings(512, 768),
        embeddings(512, 768) + all_weights(1, 12, 512),
    ),
    Work(
        "MiniLM, a text of 16 tokens",
        "models",
        "forward, 16 tokens | torch sdpa",
        4,
        64,
        embeddings(16, MINILM_WIDTH),
    ),
    Work(
        "MiniLM, a text of 128 tokens",
        "models",
        "forward, 128 tokens | torch sdpa",
        4,
        512,
        embeddings(128, MINILM_WIDTH),
    ),
    Work(
        "MiniLM, 512 tokens, all weights of all layers",
        "models",
        "512 tokens: all weights of all layers",
        4,
        2048,
        all_weights(MINILM_LAYERS, MINILM_HEADS, 512),
    ),
    Work(
        "block, 4096 x 768, top 10 of one row",
        "weights",
        "top 10 of one row",
        1,
        embeddings(4096, 768),
        12 * 10 * 2 * FLOAT,
    ),
    Work(
        "block, 4096 x 768, all weights in blocks",
        "weights",
        "all weights, in blocks",
        1,
        embeddings(4096, 768),
        all_weights(1, 12, 4096),
    ),
)
