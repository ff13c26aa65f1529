"""Shapes that no array has, and texts of any length: refused with a status that arrives."""

from __future__ import annotations

import json
import math

import grpc
import numpy as np
import pytest
from onnx import TensorProto, helper
from raw_calls import open_channel
from serving import serving

from polyhead_models.graph import build_model
from polyhead_models.store import write_model
from polyhead_server.inference import grpc_inference_pb2 as pb
from polyhead_server.running import running_server

SERVICE = "/inference.GRPCInferenceService/"
ITEM_SIZES = {
    "BOOL": 1, "UINT8": 1, "UINT16": 2, "UINT32": 4, "UINT64": 8, "INT8": 1, "INT16": 2, "INT32": 4,
    "INT64": 8, "FP16": 2, "BF16": 2, "FP32": 4, "FP64": 8, "BYTES": 4,
}  # fmt: skip
ELEM_TYPES = {"FP16": "FLOAT16", "BF16": "BFLOAT16", "FP32": "FLOAT", "FP64": "DOUBLE"}
ELEM_TYPES |= {"BYTES": "STRING"}
value = helper.make_tensor_value_info


def model_of(node, inputs, outputs):
    graph = helper.make_graph([node], "graph", inputs, outputs)
    opset = helper.make_opsetid("", 21)
    return helper.make_model(graph, opset_imports=[opset], ir_version=10).SerializeToString()


@pytest.fixture(scope="module")
def folder(blocks, tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    for name in ITEM_SIZES:
        elem = getattr(TensorProto, ELEM_TYPES.get(name, name))
        node = helper.make_node("Identity", ["x"], ["y"])
        graph = model_of(node, [value("x", elem, None)], [value("y", elem, None)])
        write_model(folder, f"identity-{name.lower()}", graph)
    node = helper.make_node("ConstantOfShape", ["x"], ["y"])
    zeros = model_of(
        node, [value("x", TensorProto.INT64, ["n"])], [value("y", TensorProto.FLOAT, None)]
    )
    write_model(folder, "zeros", zeros)
    axes = ["batch", "n", "m"]
    batched = model_of(
        helper.make_node("Add", ["x", "x"], ["y"]),
        [value("x", TensorProto.FLOAT, axes)],
        [value("y", TensorProto.FLOAT, axes)],
    )
    write_model(folder, "batched", batched)
    (folder / "batched" / "config.pbtxt").write_text("max_batch_size: 8")
    write_model(folder, "plain", build_model(blocks["plain"]))
    return folder


@pytest.fixture(scope="module")
def channel(folder):
    with running_server(folder, threads=1) as server, open_channel(server) as channel:
        yield channel


def request(model, datatype, shape, content=b"", *, is_typed=False):
    """A request whose contents are raw, or typed and empty."""
    message = pb.ModelInferRequest(model_name=model)
    message.inputs.add(name="x", datatype=datatype, shape=shape)
    if not is_typed:
        message.raw_input_contents.append(content)
    return message


def infer(channel, message):
    return channel.unary_unary(SERVICE + "ModelInfer")(message.SerializeToString(), timeout=60)


def refusal(channel, message):
    """Return the message of the INVALID_ARGUMENT that both methods answer with."""
    with pytest.raises(grpc.RpcError) as caught:
        infer(channel, message)
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT, caught.value.details()
    stream = channel.stream_stream(SERVICE + "ModelStreamInfer")
    (answer,) = stream(iter([message.SerializeToString()]), timeout=60)
    assert pb.ModelStreamInferResponse.FromString(answer).error_message == caught.value.details()
    return caught.value.details()


IMPOSSIBLE = {
    "empty and long": [0, 2**61],
    "long and empty": [2**61, 0],
    "empty and longest": [0, 2**63 - 1],
    "beyond 2**64": [2**62, 2**62, 0],
    "without elements, 64 axes": [0] + [2**62] * 63,
    "without elements, a product of 0 modulo 2**64": [0, 2**32, 2**32],
    "a product of 0 modulo 2**64": [2**32, 2**32],
    "longest": [2**63 - 1],
    "negative": [-1],
    "negative and empty": [0, -1],
    "negative, with a positive product": [-2, -3],
    "most negative": [-(2**63)],
    "65 axes": [1] * 65,
    "65 empty axes": [0] * 65,
    "100,000 axes": [1] * 100_000,
    "100,000 long axes": [2**62] * 100_000,
}


@pytest.mark.parametrize("datatype", ITEM_SIZES)
@pytest.mark.parametrize("shape", IMPOSSIBLE.values(), ids=IMPOSSIBLE)
def test_a_shape_that_no_array_has(channel, datatype, shape):
    model, num_elements = f"identity-{datatype.lower()}", math.prod(shape[:65])
    content = bytes(ITEM_SIZES[datatype]) if num_elements == 1 else b""
    assert refusal(channel, request(model, datatype, shape, content)).startswith("x.shape: expec")
    if datatype not in {"FP16", "BF16"}:  # which have no typed contents
        typed = request(model, datatype, shape, is_typed=True)
        assert refusal(channel, typed).startswith("x.shape: expected")


@pytest.mark.parametrize("shape", [[1, 0, 2**61], [8, 0, 2**58], [1, 2**33, 2**33], [2**62, 0, 1]])
def test_a_shape_that_no_array_has_with_a_batch_axis(channel, shape):
    assert "x.shape: expected lengths" in refusal(channel, request("batched", "FP32", shape))


@pytest.mark.parametrize("shape", IMPOSSIBLE.values(), ids=IMPOSSIBLE)
@pytest.mark.parametrize("name", ["query", "key", "value", "attn_mask", "kv_lengths"])
def test_a_shape_that_no_array_has_for_an_attention_block(channel, name, shape):
    query = np.ones((1, 2, 16), np.float32)
    message = pb.ModelInferRequest(model_name="plain")
    for given in {"query": None, name: None}:
        axes, content = (shape, b"") if given == name else (query.shape, query.tobytes())
        datatype = "INT32" if given == "kv_lengths" else "FP32"
        message.inputs.add(name=given, datatype=datatype, shape=axes)
        message.raw_input_contents.append(content)
    assert refusal(channel, message).startswith((f"{name}.shape", f"{name}.data"))


@pytest.mark.parametrize("shape", [[0, 2**59], [1] * 64, [0] * 64, [2**31, 0]], ids=len)
@pytest.mark.parametrize("datatype", ITEM_SIZES)
def test_the_largest_shapes_of_few_elements_are_served(channel, datatype, shape):
    content = bytes(ITEM_SIZES[datatype] * math.prod(shape))
    answer = infer(channel, request(f"identity-{datatype.lower()}", datatype, shape, content))
    response = pb.ModelInferResponse.FromString(answer)
    assert list(response.outputs[0].shape) == shape
    assert response.raw_output_contents == [content]


@pytest.mark.parametrize("shape", [[0, 2**61], [2**62, 2**62, 0], [2**62], [-1], [1] * 65])
def test_an_output_of_a_shape_that_no_array_has(channel, shape):
    content = np.array(shape, np.int64).tobytes()
    message = request("zeros", "INT64", [len(shape)], content)
    assert "graph failed" in refusal(channel, message)


def test_an_output_beyond_all_memory_writes_nothing_beside_the_log(folder):
    content = np.array([2**62], np.int64).tobytes()
    with serving("--models", folder, "--threads", 1) as server:
        with grpc.insecure_channel(server.address) as channel:
            refusal(channel, request("zeros", "INT64", [1], content))
        server.process.terminate()
        lines = server.process.stderr.read().splitlines()
        assert server.process.wait(timeout=60) == 0
    assert [json.loads(line)["event"] for line in lines][-1] == "stopped"


def set_input_name(message, text):
    message.inputs[0].name = text


def set_datatype(message, text):
    message.inputs[0].datatype = text


def set_output_name(message, text):
    message.outputs.add(name=text)


def set_model(message, text):
    message.model_name = text


def set_version(message, text):
    message.model_version = text


def set_timeout(message, text):
    message.parameters["timeout"].string_param = text


def set_shared_memory(message, text):
    set_input_name(message, text)
    message.inputs[0].parameters["shared_memory_region"].string_param = text


SETTERS = [
    set_input_name, set_datatype, set_output_name, set_model, set_version, set_timeout,
    set_shared_memory,
]  # fmt: skip


@pytest.mark.parametrize("text", ["x" * 100_000, "\N{WATER WAVE}" * 30_000, "\n%" * 30_000],
                         ids=["ascii", "not ascii", "escaped"])  # fmt: skip
@pytest.mark.parametrize("is_typed", [False, True])
@pytest.mark.parametrize("set_text", SETTERS)
def test_a_refusal_that_quotes_a_long_text_arrives(channel, text, is_typed, set_text):
    message = request("identity-fp32", "FP32", [1], bytes(4), is_typed=is_typed)
    set_text(message, text)
    assert 20 < len(refusal(channel, message).encode()) < 1000
