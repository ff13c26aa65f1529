"""The reasons why ONNX Runtime cannot load a model, as callers read them."""

from __future__ import annotations

import os
import subprocess
import sys

import onnx
import pytest
from onnx import TensorProto, external_data_helper, helper

from polyhead_server.engine.load_failure import load_failure
from polyhead_server.engine.runtime import onnxruntime_version
from polyhead_server.errors import ModelFileError

VERSION = onnxruntime_version()
FLOAT, BFLOAT16 = TensorProto.FLOAT, TensorProto.BFLOAT16


def model_of(op, domain="", *, opsets=(("", 17),), ir_version=10, dtype=FLOAT, inputs=("x", "x")):
    """Make a model of one node; an input w is a weight of 8 bytes in a file of its own."""
    x, y = (helper.make_tensor_value_info(name, dtype, [2]) for name in "xy")
    nodes = [helper.make_node(op, inputs, ["y"], domain=domain)]
    w = helper.make_tensor("w", FLOAT, [2], bytes(8), raw=True)
    graph = helper.make_graph(nodes, "g", [x], [y], [w] if "w" in inputs else [])
    imports = [helper.make_opsetid(*opset) for opset in opsets]
    return helper.make_model(graph, opset_imports=imports, ir_version=ir_version)


def with_data_at(location):
    model = model_of("Add", inputs=("x", "w"))
    (tensor,) = model.graph.initializer
    external_data_helper.set_external_data(tensor, location, offset=0, length=8)
    tensor.ClearField("raw_data")
    return model


def with_data_of_a_branch_at(location):
    """Make a model whose weight belongs to a branch, for which ONNX Runtime has other messages."""
    inner = with_data_at(location).graph
    del inner.input[:]
    model = model_of("If", inputs=("c",))
    model.graph.input.add().CopyFrom(helper.make_tensor_value_info("c", TensorProto.BOOL, []))
    for branch in ("then_branch", "else_branch"):
        model.graph.node[0].attribute.append(helper.make_attribute(branch, inner))
    return model


PLACED = [with_data_at, with_data_of_a_branch_at]


@pytest.fixture
def reason_of(tmp_path, engine):
    """Return a function that gives the reason why a model cannot be loaded."""

    def reason_of(model):
        folder = tmp_path / "secret"
        folder.mkdir(exist_ok=True)
        onnx.save(model, folder / "model.onnx")
        with pytest.raises(ModelFileError) as caught:
            engine.load("m", 1, folder / "model.onnx")
        assert "secret" not in str(caught.value)
        assert "[" not in str(caught.value)
        return str(caught.value)

    return reason_of


@pytest.mark.parametrize("placed", PLACED)
@pytest.mark.parametrize("location", ["weights.bin", "sub/weights.bin", "my, own weights.bin"])
def test_missing_external_data_is_named(reason_of, placed, location):
    name = location.removeprefix("sub/")
    expected = f"it keeps weights in a file of their own, {name!r}, which is missing"
    assert expected in reason_of(placed(location))


@pytest.mark.parametrize("placed", PLACED)
@pytest.mark.parametrize("location", ["../weights.bin", "/dev/null", "link.bin"])
def test_external_data_elsewhere(reason_of, tmp_path, placed, location):
    (tmp_path / "weights.bin").write_bytes(bytes(8))
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "link.bin").symlink_to(tmp_path / "weights.bin")
    assert "in a file outside of its own folder" in reason_of(placed(location))


@pytest.mark.parametrize("location", ["folder", "short.bin"])
def test_external_data_that_is_short_or_no_file(reason_of, tmp_path, location):
    (tmp_path / "secret" / "folder").mkdir(parents=True)
    (tmp_path / "secret" / "short.bin").write_bytes(bytes(4))
    assert "too short, or is not a file" in reason_of(with_data_at(location))


UNSUPPORTED = {
    f"the operator Frobnicate of opset 17, which ONNX Runtime {VERSION} does not have": (
        model_of("Frobnicate")
    ),
    f"the operator Gelu of opset 17, which ONNX Runtime {VERSION} does not have": (
        model_of("Gelu", inputs=("x",))
    ),
    f"the operator Frob of the domain my.own, which ONNX Runtime {VERSION} does not have": (
        model_of("Frob", "my.own", opsets=(("", 17), ("my.own", 1)))
    ),
    "the operator Frob of the domain com.microsoft": (
        model_of("Frob", "com.microsoft", opsets=(("", 17), ("com.microsoft", 1)))
    ),
    "the domain my.own, and does not import a version of it": model_of("Frob", "my.own"),
    "the operator Add, version 14, on types": model_of("Add", dtype=BFLOAT16),
    f"IR version is 999; ONNX Runtime {VERSION} reads up to": model_of("Add", ir_version=999),
    "opset 9999, which ONNX Runtime": model_of("Add", opsets=(("", 9999),)),
}


@pytest.mark.parametrize("expected", UNSUPPORTED)
def test_what_onnx_runtime_lacks_is_named(reason_of, expected):
    assert expected in reason_of(UNSUPPORTED[expected])


@pytest.mark.parametrize("name", ["x" * 101, "a b", "\x1b[2J", "é\n"])
def test_odd_names_from_the_file_are_not_repeated(reason_of, name):
    for model in (model_of(name), model_of(name, "my.own", opsets=(("", 17), ("my.own", 1)))):
        assert reason_of(model) == "ONNX Runtime cannot read the file as a model"


@pytest.mark.skipif(sys.platform == "win32", reason="permissions are others there")
def test_a_file_without_permission(tmp_path):
    """In a process of its own, because root may read every file."""
    onnx.save(model_of("Add"), tmp_path / "model.onnx")
    (tmp_path / "model.onnx").chmod(0)
    program = """
import os, sys
import onnxruntime
from polyhead_server.engine.load_failure import load_failure
os.chdir(sys.argv[1])
if os.getuid() == 0:
    os.setuid(65534)
try:
    onnxruntime.InferenceSession("model.onnx", providers=["CPUExecutionProvider"])
except Exception as error:
    print(load_failure(error, ""))
"""
    printed = subprocess.run(
        [sys.executable, "-c", program, tmp_path],
        capture_output=True,
        check=True,
        text=True,
        env=os.environ | {"ORT_DISABLE_TELEMETRY": "1"},
    )
    assert printed.stdout == "the server may not read one of its files\n"


def test_other_errors_have_no_details():
    error = RuntimeError("/secret/model.onnx: 0x7f00")
    assert load_failure(error, VERSION) == "ONNX Runtime cannot read the file as a model"
