"""Graphs that polyhead did not export, with tensors of every type, served with their own names."""

from __future__ import annotations

import threading

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from tritonclient_requests import inputs_of, outputs_of, stock

import polyhead
from polyhead_models.graph import build_model
from polyhead_models.store import write_model
from polyhead_server.running import running_server

TYPES = {
    "BOOL": (TensorProto.BOOL, np.bool_),
    "UINT8": (TensorProto.UINT8, np.uint8),
    "UINT16": (TensorProto.UINT16, np.uint16),
    "UINT32": (TensorProto.UINT32, np.uint32),
    "UINT64": (TensorProto.UINT64, np.uint64),
    "INT8": (TensorProto.INT8, np.int8),
    "INT16": (TensorProto.INT16, np.int16),
    "INT32": (TensorProto.INT32, np.int32),
    "INT64": (TensorProto.INT64, np.int64),
    "FP16": (TensorProto.FLOAT16, np.float16),
    "BF16": (TensorProto.BFLOAT16, np.uint16),  # as bits
    "FP32": (TensorProto.FLOAT, np.float32),
    "FP64": (TensorProto.DOUBLE, np.float64),
    "BYTES": (TensorProto.STRING, np.object_),
}
value = helper.make_tensor_value_info


def model_of(nodes, inputs, outputs, initializers=()):
    graph = helper.make_graph(nodes, "graph", inputs, outputs, list(initializers))
    opset = helper.make_opsetid("", 21)
    return helper.make_model(graph, opset_imports=[opset], ir_version=10)


def identity(elem_type):
    """Two tensors, of any shape, as they are."""
    return model_of(
        [helper.make_node("Identity", [f"{n}in"], [f"{n}out"]) for n in "ab"],
        [value(f"{n}in", elem_type, None) for n in "ab"],
        [value(f"{n}out", elem_type, None) for n in "ab"],
    )


def scaled(*axes):
    """Twice x plus c, which may be left out."""
    return model_of(
        [
            helper.make_node("Add", ["x", "x"], ["twice"]),
            helper.make_node("Add", ["twice", "c"], ["y"]),
        ],
        [value("x", TensorProto.FLOAT, axes), value("c", TensorProto.FLOAT, [])],
        [value("y", TensorProto.FLOAT, axes)],
        [helper.make_tensor("c", TensorProto.FLOAT, [], [0.5])],
    )


def joined():
    """Two matrices whose widths must agree, which their shapes do not say."""
    return model_of(
        [helper.make_node("Add", ["x", "z"], ["y"])],
        [value("x", TensorProto.FLOAT, ["a", "b"]), value("z", TensorProto.FLOAT, ["a", "d"])],
        [value("y", TensorProto.FLOAT, None)],
    )


MODELS = {f"identity-{name.lower()}": identity(elem) for name, (elem, _) in TYPES.items()}
MODELS |= {
    "scaled": scaled("n", 3),
    "batched": scaled("batch", "n"),
    "joined": joined(),
    "turned": model_of(  # whose output has no batch axis, whatever is declared
        [helper.make_node("Transpose", ["x"], ["y"])],
        [value("x", TensorProto.FLOAT, ["batch", "n"])],
        [value("y", TensorProto.FLOAT, ["n", "batch"])],
    ),
    "fixed": scaled(1, 3),
    "sequence": model_of(
        [helper.make_node("SequenceConstruct", ["x"], ["y"])],
        [value("x", TensorProto.FLOAT, [1])],
        [helper.make_tensor_sequence_value_info("y", TensorProto.FLOAT, [1])],
    ),
    "float8": identity(TensorProto.FLOAT8E4M3FN),
}
CONFIGS = {
    "batched": 'name: "batched"\nbackend: "onnxruntime"\nmax_batch_size: 8 # sequences\n'
    "dynamic_batching { max_queue_delay_microseconds: 100 }\n"
    'input [{ name: "x" data_type: TYPE_FP32 dims: [-1] }]\n',
    "turned": "max_batch_size: 8",
    "fixed": "max_batch_size: 4",
    "folder": "max_batch_size: 8\ninstance_group [ { count: 1 kind: KIND_CPU } ]\n",
}


def write_in_two_files(folder):
    """Write the model that adds 0 to 999: model.onnx, and its data in weights.bin."""
    folder.mkdir(parents=True)
    addends = onnx.numpy_helper.from_array(np.arange(1000, dtype=np.float32), "addends")
    shape = ["batch", 1000]
    model = model_of(
        [helper.make_node("Add", ["x", "addends"], ["y"])],
        [value("x", TensorProto.FLOAT, shape)],
        [value("y", TensorProto.FLOAT, shape)],
        [addends],
    )
    path = str(folder / "model.onnx")
    onnx.save_model(model, path, save_as_external_data=True, location="weights.bin")


@pytest.fixture(scope="module")
def served(blocks, tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    for name, model in MODELS.items():
        write_model(folder, name, model.SerializeToString())
    write_model(folder, "plain", build_model(blocks["plain"]))
    write_in_two_files(folder / "folder" / "1" / "model.onnx")
    (folder / "empty" / "1" / "model.onnx").mkdir(parents=True)
    for name, text in CONFIGS.items():
        (folder / name / "config.pbtxt").write_text(text)
    with running_server(folder, threads=1, max_response_bytes=1 << 20) as running:
        yield running


@pytest.fixture
def triton(served):
    with stock.InferenceServerClient(served.target) as client:
        yield client


def numbers(name, shape):
    """Arrays of a type, its extremes among them."""
    rng = np.random.default_rng(5)
    dtype = np.dtype(TYPES[name][1])
    if name == "BYTES":
        texts = ["", "bank", "é\N{WATER WAVE}", "x" * 300]
        count = int(np.prod(shape))
        return np.array([texts[n % 4].encode() for n in range(count)], dtype).reshape(shape)
    if dtype == np.bool_:
        return rng.random(shape) < 0.5
    if dtype.kind in "iu":
        info = np.iinfo(dtype)
        return rng.integers(info.min, info.max, shape, dtype, endpoint=True)
    array = np.asarray(rng.standard_normal(shape)).astype(dtype)
    array[..., :1] = np.inf
    return array


@pytest.mark.parametrize("shape", [(2, 3), (1,), (0, 4), (2, 1, 0)], ids=str)
@pytest.mark.parametrize("name", TYPES)
def test_tensors_of_every_type_come_back_as_they_went(triton, name, shape):
    model = f"identity-{name.lower()}"
    a, b = numbers(name, shape), numbers(name, (3,))
    datatypes = dict.fromkeys(("ain", "bin"), name)
    response = triton.infer(model, inputs_of({"ain": a, "bin": b}, datatypes))
    described = response.get_response().outputs
    assert [(output.name, output.datatype) for output in described] == [
        ("aout", name),
        ("bout", name),
    ]
    assert list(described[0].shape) == list(shape)
    sent = inputs_of({"ain": a, "bin": b}, datatypes)
    for raw, given in zip(response.get_response().raw_output_contents, sent, strict=True):
        assert raw == (given._get_content() or b"")
    reversed_ones = triton.infer(
        model, inputs_of({"bin": b, "ain": a}, datatypes), outputs=outputs_of("bout")
    )
    assert reversed_ones.get_response().raw_output_contents == [
        response.get_response().raw_output_contents[1]
    ]


def test_scalars(triton):
    given = inputs_of({"ain": np.array(2.5, np.float32), "bin": np.array([1.5], np.float32)})
    response = triton.infer("identity-fp32", given)
    assert list(response.get_response().outputs[0].shape) == []
    assert response.as_numpy("aout") == np.float32(2.5)


def test_metadata_and_configuration(triton):
    metadata = triton.get_model_metadata("batched")
    assert metadata.platform == "onnxruntime_onnx"
    described = [(t.name, t.datatype, list(t.shape)) for t in metadata.inputs]
    assert described == [("x", "FP32", [-1, -1])]  # and not c, which may be left out
    config = triton.get_model_config("batched").config
    assert config.max_batch_size == 8
    assert [(t.name, list(t.dims), t.optional) for t in config.input] == [("x", [-1], False)]
    unbatched = triton.get_model_config("scaled").config
    assert unbatched.max_batch_size == 0
    assert [list(t.dims) for t in unbatched.output] == [[-1, 3]]


def test_inputs_with_defaults_may_be_left_out(triton):
    x = np.ones((2, 3), np.float32)
    assert (triton.infer("scaled", inputs_of({"x": x})).as_numpy("y") == 2.5).all()
    given = inputs_of({"x": x, "c": np.array(4.0, np.float32)})
    assert (triton.infer("scaled", given).as_numpy("y") == 6).all()


X = np.ones((2, 3), np.float32)
WRONG = {
    "missing": ("scaled", {}, "x: is required"),
    "unknown": ("scaled", {"x": X, "w": X}, "'w'"),
    "dtype": ("scaled", {"x": X.astype(np.float64)}, "x.datatype: expected FP32; got FP64"),
    "shape": ("scaled", {"x": np.ones((2, 4), np.float32)}, r"x.shape: expected \[-1, 3\]"),
    "rank": ("scaled", {"x": np.ones(3, np.float32)}, "x.shape"),
    "batch": ("batched", {"x": np.ones((9, 2), np.float32)}, "batch size from 1 to 8; got 9"),
    "no batch": ("batched", {"x": np.ones((0, 2), np.float32)}, "batch size from 1 to 8; got 0"),
    "graph": ("joined", {"x": X, "z": np.ones((2, 5), np.float32)}, "graph failed"),
}


@pytest.mark.parametrize(("model", "arrays", "message"), WRONG.values(), ids=WRONG)
def test_what_is_wrong_is_named(triton, model, arrays, message):
    with pytest.raises(stock.InferenceServerException, match=message) as caught:
        triton.infer(model, inputs_of(arrays))
    assert caught.value.status() == "StatusCode.INVALID_ARGUMENT"
    assert "onnxruntime" not in str(caught.value).lower()
    assert "/" not in str(caught.value)


@pytest.mark.parametrize("raw", [b"\5\0\0\0ab", b"\1\0\0\0a\1\0\0\0b", b"\1\0\0\0\xff", b"\1\0"])
def test_strings_that_are_none(triton, raw):
    given = inputs_of({"ain": numbers("BYTES", (1,)), "bin": numbers("BYTES", (1,))})
    given[0]._raw_content = raw
    with pytest.raises(stock.InferenceServerException, match=r"ain\.data"):
        triton.infer("identity-bytes", given)


def test_too_large_an_answer(triton):
    with pytest.raises(stock.InferenceServerException, match="--max-response-bytes") as caught:
        triton.infer("joined", inputs_of({"x": np.ones((2, 1), np.float32),
                                          "z": np.ones((2, 1 << 18), np.float32)}))  # fmt: skip
    assert caught.value.status() == "StatusCode.RESOURCE_EXHAUSTED"


@pytest.mark.parametrize("model", ["batched", "scaled"])
def test_a_crowd_is_answered_as_each_alone(served, triton, model):
    """Sharing runs along the batch axis, where one is declared; and their statistics add up."""
    width = 3
    arrays = [np.full((1 + n % 3, width), n, np.float32) for n in range(120)]

    def work(offset):
        with stock.InferenceServerClient(served.target) as client:
            for array in arrays[offset::6]:
                output = client.infer(model, inputs_of({"x": array})).as_numpy("y")
                np.testing.assert_array_equal(output, 2 * array + 0.5)

    before = triton.get_inference_statistics(model).model_stats[0].inference_count
    workers = [threading.Thread(target=work, args=(n,)) for n in range(6)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    (stats,) = triton.get_inference_statistics(model).model_stats
    runs = {batch.batch_size: batch.compute_infer.count for batch in stats.batch_stats}
    assert sum(size * count for size, count in runs.items()) == stats.inference_count
    sequences = sum(len(array) for array in arrays) if model == "batched" else len(arrays)
    assert stats.inference_count - before == sequences
    if model == "scaled":
        assert runs.keys() == {1}


def test_where_the_batch_axis_is_none_after_all_each_runs_alone(served):
    arrays = [np.full((1 + n % 2, 9), n, np.float32) for n in range(60)]

    def work(offset):
        with stock.InferenceServerClient(served.target) as client:
            for array in arrays[offset::6]:
                output = client.infer("turned", inputs_of({"x": array})).as_numpy("y")
                np.testing.assert_array_equal(output, array.T)

    workers = [threading.Thread(target=work, args=(n,)) for n in range(6)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)


def test_a_model_of_two_files_in_a_folder(triton):
    assert triton.get_model_config("folder").config.max_batch_size == 8
    x = np.ones((2, 1000), np.float32)
    output = triton.infer("folder", inputs_of({"x": x})).as_numpy("y")
    np.testing.assert_array_equal(output, x + np.arange(1000))


def test_models_that_cannot_be_served_have_a_reason(triton):
    index = {model.name: model for model in triton.get_model_repository_index().models}
    reasons = {name: model.reason for name, model in index.items() if model.state != "READY"}
    assert reasons.keys() == {"fixed", "sequence", "float8", "empty"}
    assert "model.onnx/model.onnx does not exist" in reasons["empty"]
    assert "max_batch_size" in reasons["fixed"]
    assert "seq(tensor(float))" in reasons["sequence"]
    with pytest.raises(stock.InferenceServerException, match="could not be loaded"):
        triton.infer("fixed", inputs_of({"x": np.ones((1, 3), np.float32)}))


def test_our_own_service_knows_attention_blocks_only(served):
    with polyhead.Client(served.target) as client:
        assert [model.name for model in client.models() if model.is_ready] == ["plain"]
        for ask in (
            lambda: client.attend(np.ones((1, 2, 3), np.float32), model="scaled"),
            lambda: client.model("scaled"),
        ):
            with pytest.raises(polyhead.PolyheadError, match="Open Inference Protocol"):
                ask()
