"""The ONNX standard's own tests of Attention: over the wire as in process, bit for bit."""

from __future__ import annotations

import warnings

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from tritonclient_requests import inputs_of, outputs_of, stock

from polyhead_models.store import write_model
from polyhead_server.running import running_server

BFLOAT16 = onnx.TensorProto.BFLOAT16
DATATYPES = {"tensor(bfloat16)": "BF16", "tensor(float16)": "FP16"}


@pytest.fixture(scope="module")
def cases():
    """The standard's cases, by name: a model, its inputs and its outputs."""
    with warnings.catch_warnings():  # of NumPy, while they are made
        warnings.simplefilter("ignore")
        from onnx.backend.test.case.node import collect_testcases

        found = collect_testcases("Attention")
    return {case.name: case for case in found if case.name.startswith("test_attention_")}


class InProcess:
    """ONNX Runtime on a case's model, with nothing between."""

    def __init__(self, model):
        options = ort.SessionOptions()
        options.log_severity_level = 4
        options.intra_op_num_threads = 1
        self.session = ort.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        self.types = {node.name: node.type for node in self.session.get_inputs()}
        self.names = [node.name for node in self.session.get_outputs()]

    def run(self, arrays):
        """The outputs' bytes and shapes, and arrays of those that NumPy has a type for."""
        values = {
            name: ort.OrtValue.ortvalue_from_numpy_with_onnx_type(array, BFLOAT16)
            if self.types[name] == "tensor(bfloat16)"
            else ort.OrtValue.ortvalue_from_numpy(array)
            for name, array in arrays.items()
        }
        outputs = self.session.run_with_ort_values(self.names, values)
        return [(output, output.shape()) for output in outputs]


def as_sent(array):
    """An array with bfloat16 as its bits."""
    array = np.asarray(array)
    return array.view(np.uint16) if array.dtype.name == "bfloat16" else np.ascontiguousarray(array)


def bits_of(value):
    if value.data_type() == "tensor(bfloat16)":
        import ctypes

        return ctypes.string_at(value.data_ptr(), value.tensor_size_in_bytes())
    return value.numpy().tobytes()


def agrees(value, expected, case):
    """Whether ONNX Runtime itself gives what the standard says."""
    expected = np.asarray(expected)
    got = np.frombuffer(bits_of(value), as_sent(expected).dtype).reshape(value.shape())
    if expected.dtype.name == "bfloat16":
        got, expected = (
            (as_sent(a).astype(np.uint32) << 16).view(np.float32) for a in (got, expected)
        )
        return np.allclose(got, expected, rtol=2e-2, atol=2e-2)
    return np.allclose(
        got,
        expected,
        rtol=case.rtol,
        atol=max(case.atol, 1e-3 if got.dtype == np.float16 else 1e-5),
    )


def test_every_case_that_onnx_runtime_passes(cases, tmp_path, capsys):
    runnable, unsupported, wrong = {}, [], []
    for name, case in cases.items():
        inputs, expected = case.data_sets[0]
        names = [node.name for node in case.model.graph.input]
        arrays = {n: as_sent(array) for n, array in zip(names, inputs, strict=True)}
        try:
            in_process = InProcess(case.model)
            outputs = in_process.run(arrays)
        except Exception:  # noqa: BLE001 - its own classes share no narrower one
            unsupported.append(name)
            continue
        if not all(agrees(out, exp, case) for (out, _), exp in zip(outputs, expected, strict=True)):
            wrong.append(name)
        runnable[name] = arrays, in_process, [(bits_of(out), shape) for out, shape in outputs]
        write_model(tmp_path, name, case.model.SerializeToString())

    with (
        running_server(tmp_path, threads=1) as server,
        stock.InferenceServerClient(server.target) as client,
    ):
        for name, (arrays, in_process, outputs) in runnable.items():
            datatypes = {n: DATATYPES[t] for n, t in in_process.types.items() if t in DATATYPES}
            response = client.infer(
                name, inputs_of(arrays, datatypes), outputs=outputs_of(*in_process.names)
            ).get_response()
            got = [
                (raw, list(output.shape))
                for raw, output in zip(response.raw_output_contents, response.outputs, strict=True)
            ]
            assert got == outputs, name

    with capsys.disabled():
        passed = len(runnable) - len(wrong)
        print(
            f"\nONNX {onnx.__version__}, Attention: {len(cases)} cases; over the wire "
            f"{len(runnable)} ran with the bits that ONNX Runtime {ort.__version__} gives in "
            f"process, {passed} of them as the standard says; {len(unsupported)} it does not run"
        )
    assert len(cases) > 100
    assert len(runnable) > len(cases) // 2
