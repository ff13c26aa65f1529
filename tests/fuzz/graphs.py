"""Which operators a model's file is found to use; it must be those that protobuf reads in it."""

from __future__ import annotations

import tempfile
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError
from onnx_graphs import chain, choosing, function, model, node

from polyhead_models import builtin
from polyhead_server.errors import ModelFileError
from polyhead_server.limits import LoadLimits
from polyhead_server.repository.graph_operators import check_operators

__all__ = ["check", "seeds"]

_FOLDER = tempfile.TemporaryDirectory(prefix="polyhead-fuzz-")
_LIMITS = LoadLimits(max_graph_nodes=1000)


def check(data):
    file = Path(_FOLDER.name) / "model.onnx"
    file.write_bytes(data)
    try:
        check_operators(file, _LIMITS)
    except ModelFileError:
        return  # it is stricter than protobuf
    try:
        parsed = onnx.ModelProto.FromString(data)
    except DecodeError:
        return  # ONNX Runtime does not read it either
    own = {(each.domain, each.name, each.overload) for each in parsed.functions}
    nodes = list(_nodes(parsed.graph.node))
    for each in parsed.functions:
        nodes += _nodes(each.node)
    for each in nodes:
        is_served = each.domain in {"", "ai.onnx", "ai.onnx.ml", "com.microsoft"}
        is_own = (each.domain, each.op_type, each.overload) in own
        assert is_served or (is_own and not each.domain.startswith(("com.microsoft", "ai.onnx")))
        assert (each.domain, each.op_type) != ("com.microsoft", "EPContext")
    assert len(nodes) <= 1000


def seeds():
    twice = function("Twice", node("Add", inputs=["x", "x"]))
    models = [
        model(node("Gelu", "com.microsoft"), *choosing(node("Twice", "own")), functions=[twice]),
        model(node("F0", "own"), functions=chain(3, calls=2)),
        model(node("ReorderInput", "com.microsoft.nchwc")),
        model(node("EPContext", "com.microsoft")),
    ]
    river_bank = builtin.repository() / "river-bank" / "1" / "model.onnx"
    return [river_bank.read_bytes()[:4000], *(each.SerializeToString() for each in models)]


def _nodes(nodes):
    for each in nodes:
        yield each
        for attribute in each.attribute:
            for graph in (attribute.g, *attribute.graphs):
                yield from _nodes(graph.node)
