"""The models that the targets have: the built-in block, a graph, and a whole model with texts."""

from __future__ import annotations

import shutil
import tempfile
from functools import cache
from pathlib import Path

from golden import GOLDEN
from loads import load_repository
from onnx import TensorProto, helper
from whole_infer import tokenizer_json

from polyhead_models import builtin
from polyhead_models.checkpoint.checkpoint import Checkpoint
from polyhead_models.export.whole import export_whole_model
from polyhead_server.engine.runtime import Engine
from polyhead_server.settings import ServerSettings

SETTINGS = ServerSettings(max_request_bytes=1 << 20, max_response_bytes=1 << 20)
_TYPES = {
    "strings": TensorProto.STRING,
    "bools": TensorProto.BOOL,
    "halves": TensorProto.FLOAT16,
    "floats": TensorProto.FLOAT,
    "longs": TensorProto.INT64,
}


@cache
def repository():
    """Load the models."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shutil.copytree(builtin.repository() / "river-bank", folder / "river-bank")
        (folder / "graph" / "1").mkdir(parents=True)
        (folder / "graph" / "1" / "model.onnx").write_bytes(_graph())
        checkpoint = shutil.copytree(GOLDEN / "bert", folder / ".checkpoint")
        (checkpoint / "tokenizer.json").write_text(tokenizer_json())
        export_whole_model(Checkpoint.open(checkpoint), "bert", folder)
        shutil.rmtree(checkpoint)
        engine = Engine("cpu", {}, threads=1, spinning=False, max_scores_bytes=1 << 20)
        return load_repository(folder, engine)


def _graph():
    """Make a graph that returns its inputs, of several types, and that batches them."""
    values = {
        kind: [
            helper.make_tensor_value_info(f"{name}{suffix}", type_, ["batch", 2])
            for name, type_ in _TYPES.items()
        ]
        for kind, suffix in (("inputs", ""), ("outputs", "_out"))
    }
    nodes = [helper.make_node("Identity", [name], [f"{name}_out"]) for name in _TYPES]
    graph = helper.make_graph(nodes, "g", **values)
    return helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8
    ).SerializeToString()
