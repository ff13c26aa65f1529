"""Heat maps of several heads' attention weights over one sentence."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from polyhead import viz

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray
    from rich.console import Console

__all__ = ["HeatMaps"]


@dataclass(frozen=True, kw_only=True, eq=False)
class HeatMaps:
    """One sentence's heat maps, one for each head."""

    model: str
    """Name of the model, which is the picture's title."""
    sentence: str
    words: Sequence[str]
    """The words that attend and are attended to."""
    attn_weights: NDArray[np.float32]
    """(heads, words, words)."""
    names: Sequence[str]
    """Title of each head's heat map."""

    def show(self, console: Console) -> None:
        """Print the heat maps, one below the other."""
        for name, weights in zip(self.names, self.attn_weights, strict=True):
            console.print()
            viz.print_heat_map(
                weights,
                self.words,
                self.words,
                title=name,
                console=console,
                scale_of=self.attn_weights,
            )

    def save(self, path: Path) -> None:
        """Save the heat maps side by side as PNG. Raises OSError if that fails."""
        viz.save_heat_maps(
            path,
            self.attn_weights,
            self.words,
            self.words,
            titles=self.names,
            title=self.model,
            text=self.sentence,
        )
