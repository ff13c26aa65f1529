"""The models that the contract is about: the same weights wherever they are written.

python -m tests.contract.models FOLDER
"""

from __future__ import annotations

import sys
from functools import cache
from pathlib import Path

from polyhead_models.checkpoint.checkpoint import Checkpoint, load_checkpoint
from polyhead_models.config import AttentionConfig
from polyhead_models.export.whole import export_whole_model
from polyhead_models.graph import build_model
from polyhead_models.random_block import random_block
from polyhead_models.rotary import Rotary
from polyhead_models.store import write_model

BERT = Path(__file__).parents[1] / "data/golden/bert"
"""A small checkpoint of the family, whose whole model is served as ``contract-bert``."""
CONFIGURATIONS = {
    "contract-plain": AttentionConfig(embed_dim=16, num_heads=4),
    "contract-causal": AttentionConfig(embed_dim=32, num_heads=4, is_causal=True),
    "contract-cross": AttentionConfig(embed_dim=16, num_heads=2, kdim=10, vdim=6),
    "contract-grouped": AttentionConfig(
        embed_dim=16, num_heads=4, num_kv_heads=2, rotary=Rotary(dim=4), is_causal=True
    ),
    "contract-wide": AttentionConfig(embed_dim=64, num_heads=4),
}


@cache
def blocks():
    """Return the blocks, by the names that they are served under."""
    return {name: random_block(config, seed=11) for name, config in CONFIGURATIONS.items()}


@cache
def bert_blocks():
    """Return the blocks of the whole model, by layer."""
    return [load_checkpoint(BERT, layer) for layer in (0, 1)]


def write_models(folder):
    """Write all models into a repository."""
    for name, block in blocks().items():
        write_model(folder, name, build_model(block))
    export_whole_model(Checkpoint.open(BERT), "contract-bert", folder)


if __name__ == "__main__":
    write_models(Path(sys.argv[1]))
