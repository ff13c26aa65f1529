"""The one ONNX graph of an attention block."""

from polyhead_models.graph.model import build_model

__all__ = ["build_model"]
