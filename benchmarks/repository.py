"""Repositories of random blocks, in the format of `polyhead export`."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from polyhead_models.config import AttentionConfig
from polyhead_models.export.export import export_block
from polyhead_models.random_block import random_block

if TYPE_CHECKING:
    from collections.abc import Iterator

    from polyhead_models.blocks import AttentionBlock

__all__ = ["MODEL", "Exported", "exported"]

MODEL = "bench"


@dataclass(frozen=True)
class Exported:
    """A repository with one model, whose name is MODEL."""

    folder: Path
    file: Path
    block: AttentionBlock


@contextmanager
def exported(embed_dim: int, num_heads: int) -> Iterator[Exported]:
    """Export a random block into a temporary repository."""
    config = AttentionConfig(embed_dim=embed_dim, num_heads=num_heads)
    block = random_block(config, seed=0)
    with TemporaryDirectory() as folder:
        repository = Path(folder)
        yield Exported(repository, export_block(block, MODEL, repository).file, block)
