"""Results of calls, and selections of weights and vectors: frozen dataclasses."""

from __future__ import annotations

from polyhead.results.attention import AttentionResult, AttentionRows, Execution, Stage, Weights
from polyhead.results.explorer_page import ExplorerPage
from polyhead.results.forward import ForwardResult, LayerKey
from polyhead.results.vectors import VECTOR_KINDS, HeadVectors, VectorKind, Vectors

__all__ = [
    "VECTOR_KINDS",
    "AttentionResult",
    "AttentionRows",
    "Execution",
    "ExplorerPage",
    "ForwardResult",
    "HeadVectors",
    "LayerKey",
    "Stage",
    "VectorKind",
    "Vectors",
    "Weights",
]
