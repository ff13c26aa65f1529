"""Graphs as exporters made them before."""

from __future__ import annotations

import onnx

__all__ = ["without_types", "without_vectors"]


def without_vectors(model: bytes) -> bytes:
    """Return the graph of a block as it was before queries and contexts were outputs."""
    graph = onnx.ModelProto.FromString(model)
    newer = [each for each in graph.graph.output if each.name in ("projected_query", "context")]
    assert len(newer) == 2
    for output in newer:
        graph.graph.output.remove(output)
    return graph.SerializeToString()


def without_types(model: bytes) -> bytes:
    """Return the graph of a whole model as it was when every token had the first type."""
    graph = onnx.ModelProto.FromString(model)
    [given] = [each for each in graph.graph.input if each.name == "token_type_ids"]
    graph.graph.input.remove(given)
    return graph.SerializeToString()
