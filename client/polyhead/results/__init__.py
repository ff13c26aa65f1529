"""What calls give, and which attention weights they may be asked for: frozen dataclasses."""

from __future__ import annotations

from polyhead.results.attention import AttentionResult, AttentionRows, Execution, Stage, Weights
from polyhead.results.explorer_page import ExplorerPage
from polyhead.results.forward import ForwardResult, LayerKey

__all__ = [
    "AttentionResult",
    "AttentionRows",
    "Execution",
    "ExplorerPage",
    "ForwardResult",
    "LayerKey",
    "Stage",
    "Weights",
]
