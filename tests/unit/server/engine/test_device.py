"""Whole models whose tensors stay on a device give the same bits as those of NumPy's arrays."""

from __future__ import annotations

import numpy as np
import onnxruntime as ort
import pytest
from golden import GOLDEN
from loads import load_repository

from polyhead.v1 import forward_pb2 as fpb
from polyhead.v1 import tensor_pb2 as tpb
from polyhead.wire.tensors import to_tensor
from polyhead_models.checkpoint.checkpoint import Checkpoint
from polyhead_models.export.whole import export_whole_model
from polyhead_server.codec.forward import read_forward_call
from polyhead_server.engine.device import Device, DeviceTensor
from polyhead_server.engine.runtime import Engine
from polyhead_server.planning.forward.plan import plan_forward
from polyhead_server.settings import ServerSettings

FAMILIES = ["bert", "llama", "gemma2", "bart", "vit"]
"""Fused and explicit attention, rotary embeddings, two stacks, pictures."""
SELECTIONS = {
    "none": None,
    "all": {},
    "rows": {"queries": [1, 0]},
    "heads": {"heads": [1], "average_heads": True},
    "largest": {"top_k": 2},
    "vectors": {"kinds": [1, 2, 3, 4]},
    "scores": {"stage": tpb.ATTN_WEIGHTS_STAGE_SCORES, "queries": [2]},
}


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    for family in FAMILIES:
        export_whole_model(Checkpoint.open(GOLDEN / family), family, folder)
    export_whole_model(Checkpoint.open(GOLDEN / "bert"), "half", folder, precision="float16")
    return folder


@pytest.fixture(scope="module")
def served(repository):
    """Both kinds of models, and those that compute in blocks: repositories by the device."""

    def load(device, max_scores_bytes):
        limits = {"max_scores_bytes": max_scores_bytes}
        engine = Engine("cpu", {}, 1, spinning=False, device=device, **limits)
        return load_repository(repository, engine)

    return {
        "host": load(None, 64 << 20),
        "device": load(Device("cpu"), 64 << 20),
        "host in blocks": load(None, 256),
        "device in blocks": load(Device("cpu"), 256),
    }


def request_of(model, selection):
    recorded = dict(np.load(GOLDEN / model.name.replace("half", "bert") / "whole.npz"))
    fields = {"all_hidden_states": True}
    first, *others = model.config.stacks
    if first.input == "token_ids":
        fields["token_ids"] = to_tensor(recorded["input_ids"].astype(np.int64))
        fields["lengths"] = recorded["attention_mask"].sum(-1).tolist()
    else:
        fields[first.input] = to_tensor(recorded[first.input])
    if others:
        fields["decoder_token_ids"] = to_tensor(recorded["decoder_input_ids"].astype(np.int64))
    attentions = [
        fpb.LayerRef(stack=stack.name, layer=layer, kind=sublayer.kind)
        for stack, layer, sublayer in model.config.sublayers()
        if sublayer.block
    ]
    if selection and "kinds" in selection:
        wanted = tpb.HeadVectorsSelection(**selection)
        fields["head_vectors"] = [
            fpb.LayerHeadVectors(layer=each, selection=wanted) for each in attentions
        ]
    elif selection is not None:
        wanted = tpb.AttnWeightsSelection(**selection)
        fields["attn_weights"] = [
            fpb.LayerWeights(layer=each, selection=wanted) for each in attentions
        ]
    return fpb.ForwardRequest(model=model.name, **fields)


def run(model, request):
    """Return the outputs of a request."""
    call = read_forward_call(request.SerializeToString())

    def planned():
        plan = yield from plan_forward(call, model, ServerSettings())
        yield plan.run

    *_, planned_run = planned()
    for _ in planned_run.steps():
        pass
    return planned_run.outputs


def compute(repository, name, selection):
    """Return all arrays of a response."""
    model = repository.whole(name, 0)
    outputs = run(model, request_of(model, selection))
    arrays = {"output": outputs.output, **outputs.hidden_states}
    for index, weights in outputs.weights.items():
        arrays |= {(index, "weights"): weights.attn_weights, (index, "keys"): weights.top_keys}
    for index, vectors in outputs.vectors.items():
        arrays |= {(index, kind): array for kind, array in vectors.items()}
    return {name: array for name, array in arrays.items() if array is not None}


@pytest.mark.parametrize("selection", SELECTIONS)
@pytest.mark.parametrize("family", [*FAMILIES, "half"])
@pytest.mark.parametrize("how", ["", " in blocks"])
def test_the_bits_are_the_same(served, family, selection, how):
    wanted = SELECTIONS[selection]
    expected = compute(served[f"host{how}"], family, wanted)
    actual = compute(served[f"device{how}"], family, wanted)
    assert actual.keys() == expected.keys()
    assert len(actual) > 2
    for name, array in expected.items():
        assert type(actual[name]) is np.ndarray
        assert actual[name].dtype == array.dtype
        np.testing.assert_array_equal(actual[name], array, str(name))


def test_float16_is_near_float32(served):
    expected = compute(served["host"], "bert", {})
    actual = compute(served["device"], "half", {})
    assert actual.keys() == expected.keys()
    for name, array in expected.items():
        error = np.abs(actual[name].astype(np.float32) - array).max()
        assert 0 < error < 5e-3 * np.abs(array).max(), name


def test_only_requested_outputs_are_copied_to_the_host(served, monkeypatch):
    copied = []
    monkeypatch.setattr(
        DeviceTensor, "__array__", lambda self, *a, **k: copied.append(self) or self.value.numpy()
    )
    model = served["device"].whole("bert", 0)
    ids = to_tensor(np.array([[3, 4, 5], [5, 4, 3]]))
    run(model, fpb.ForwardRequest(model="bert", token_ids=ids))
    assert len(copied) == 1  # the output


def test_a_tensor_of_a_device_is_copied_for_its_numbers_alone(monkeypatch):
    array = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    tensor = DeviceTensor(ort.OrtValue.ortvalue_from_numpy(array))
    monkeypatch.setattr(DeviceTensor, "__array__", None)
    assert (tensor.shape, len(tensor), tensor.dtype) == ((2, 3, 4), 2, np.float32)
    assert tensor[:] is tensor
    assert tensor[:, :0].shape == (2, 0, 4)
    monkeypatch.undo()
    np.testing.assert_array_equal(tensor[1:], array[1:])
    np.testing.assert_array_equal(tensor[:, np.array([2, 0])], array[:, [2, 0]])
    assert np.asarray(tensor) is np.asarray(tensor)  # one copy
