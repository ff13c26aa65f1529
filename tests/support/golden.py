"""Attention modules of real model families, as recorded from transformers; see data/golden."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from polyhead_models.checkpoint.checkpoint import Checkpoint, load_checkpoint

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from polyhead_models.blocks import AttentionBlock

__all__ = ["GOLDEN", "WHOLE_WEIGHTS_ERRORS", "Recorded", "recorded_modules"]

GOLDEN = Path(__file__).parents[1] / "data" / "golden"

WHOLE_WEIGHTS_ERRORS = {"t5": 3e-5}
"""Largest errors of the attention weights of whole models, where 1e-5 is too small. T5 does not
scale its scores, which are so large that transformers' weights in float32 differ from those in
float64 by 1.2e-5."""

CROSS = re.compile(r"encoder_attn|EncDecAttention|crossattention")
LABEL = re.compile(r"\.(\d+(?:\.albert_layers\.\d+)?)\.")
STACK = re.compile(r"(text|vision)_model\.|(encoder|decoder)\.")


@dataclass(frozen=True)
class Recorded:
    """One attention module of one recorded checkpoint: what went in, and what came out."""

    family: str
    """Name of the checkpoint's folder."""
    module: str
    """The module's path in the model, as recorded."""

    def __str__(self) -> str:
        return f"{self.family}-{self.module}"

    @property
    def folder(self) -> Path:
        """The checkpoint."""
        return GOLDEN / self.family

    @property
    def layer(self) -> int:
        """Number of its layer, or of the first of those that share it."""
        found = LABEL.search(self.module)
        assert found is not None
        checkpoint = Checkpoint.open(self.folder)
        location = checkpoint.locations(stack=self.stack, kind=self.kind)[0]
        layers = range(checkpoint.num_layers(location))
        return [checkpoint.label(location, layer) for layer in layers].index(found[1])

    @property
    def kind(self) -> str:
        """self or cross."""
        return "cross" if CROSS.search(self.module) else "self"

    @property
    def stack(self) -> str:
        """The stack it lies in; empty: the model has one only."""
        found = STACK.search(self.module)
        return (found[1] or found[2]) if found else ""

    @property
    def is_context(self) -> bool:
        """Whether what was recorded as output is the context, before the output projection."""
        return self.module.endswith(".self")

    def load(self) -> AttentionBlock:
        """Import the module as `polyhead export checkpoint` does."""
        return load_checkpoint(
            self.folder, self.layer, kind=self.kind, stack=self.stack, out_proj=not self.is_context
        )

    @property
    def query(self) -> NDArray[np.float32]:
        """(batch_size, q_seq_len, embed_dim)."""
        return self._array("hidden_states")

    @property
    def key(self) -> NDArray[np.float32] | None:
        """(batch_size, kv_seq_len, kdim): what keys and values are made of; None: the query."""
        return self._array("key_value_states") if self._has("key_value_states") else None

    @property
    def attn_mask(self) -> NDArray[np.float32] | None:
        """What was added to the scores, where a mask was given; causality is part of it."""
        return self._array("attention_mask") if self._has("attention_mask") else None

    @property
    def positions(self) -> NDArray[np.int64] | None:
        """Positions that were given to the rotary embedding, (batch_size, seq_len), or None."""
        return self._array("position_ids") if self._has("position_ids") else None

    @property
    def attn_weights(self) -> NDArray[np.float32]:
        """(batch_size, num_heads, q_seq_len, kv_seq_len)."""
        return self._array("attn_weights")

    @property
    def output(self) -> NDArray[np.float32]:
        """(batch_size, q_seq_len, output_dim)."""
        return self._array("attn_output")

    def _has(self, name: str) -> bool:
        with np.load(self.folder / "golden.npz") as golden:
            return f"{self.module}|{name}" in golden.files

    def _array(self, name: str) -> NDArray[Any]:
        with np.load(self.folder / "golden.npz") as golden:
            array: NDArray[Any] = golden[f"{self.module}|{name}"]
        return array


def recorded_modules() -> list[Recorded]:
    """List every recorded module of every family, in a fixed order."""
    modules = []
    for file in sorted(GOLDEN.glob("*/golden.npz")):
        with np.load(file) as golden:
            names = (key.removesuffix("|hidden_states") for key in golden.files)
            modules += [
                Recorded(file.parent.name, name) for name in sorted({*names}) if "|" not in name
            ]
    return modules
