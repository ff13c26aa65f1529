"""The outputs of whole models: those that a request names, and how they are described."""

from __future__ import annotations

import asyncio
import queue

import grpc
import numpy as np
import pytest
from tritonclient_requests import inputs_of, outputs_of, stock, stock_aio
from whole_infer import IDS, MASK, ids_of, names_of, texts_of

import polyhead
from polyhead.v1 import attention_pb2 as pb
from polyhead.v1 import attention_pb2_grpc
from polyhead.v1 import forward_pb2 as f
from polyhead.wire.tensors import to_array, to_tensor
from polyhead_server.inference import grpc_inference_pb2
from polyhead_server.running import running_server

DECODER = {"decoder_input_ids": np.array([[1, 4, 2], [1, 3, 2]])}


def weights_of(number, **selection):
    return f.LayerWeights(
        layer=f.LayerRef(layer=number), selection=pb.AttnWeightsSelection(**selection)
    )


def test_hidden_states_and_weights_equal_those_of_forward(triton, forward):
    request = f.ForwardRequest(model="bert", token_ids=to_tensor(IDS), lengths=[4, 3])
    request.hidden_states_wanted.extend([f.LayerRef(layer=0), f.LayerRef(layer=2)])
    request.attn_weights.extend([weights_of(1), weights_of(0)])
    expected = forward(request)
    names = "attn_weights.0", "hidden_states.2", "last_hidden_state", "attn_weights.1"
    response = triton.infer("bert", ids_of(), outputs=outputs_of(*names, "hidden_states.0"))
    assert names_of(response) == [*names, "hidden_states.0"]
    for name, tensor in {
        "attn_weights.0": expected.attn_weights[1].attn_weights,
        "attn_weights.1": expected.attn_weights[0].attn_weights,
        "hidden_states.0": expected.hidden_states[0].hidden_states,
        "hidden_states.2": expected.hidden_states[1].hidden_states,
        "last_hidden_state": expected.output,
    }.items():
        np.testing.assert_array_equal(response.as_numpy(name), to_array(tensor))


@pytest.mark.parametrize("model", ["bert", "t5"])
def test_vectors_of_heads_equal_those_of_forward(triton, served, model):
    given, layer, name, more = ids_of(), 1, "1", {}
    if model == "t5":
        given, layer, name = ids_of() + inputs_of(DECODER), ("cross", 1), "cross.1"
        more = {"decoder_token_ids": DECODER["decoder_input_ids"]}
    names = [f"head_context.{name}", f"head_key.{name}"]
    response = triton.infer(model, given, outputs=outputs_of(*names))
    with polyhead.Client(served.target) as client:
        wanted = {layer: polyhead.Vectors(kinds=("key", "context"))}
        lengths = MASK.sum(axis=1)
        result = client.forward(
            token_ids=IDS, lengths=lengths, model=model, head_vectors=wanted, **more
        )
    expected = result.head_vectors[layer]
    np.testing.assert_allclose(response.as_numpy(names[0]), expected.context, atol=1e-6)
    np.testing.assert_allclose(response.as_numpy(names[1]), expected.key, atol=1e-6)
    assert not response.as_numpy(names[1])[1, :, 3:].any()  # padding


SELECTIONS = {
    "heads": ({"heads": "1,0"}, {"heads": [1, 0]}),
    "a query": ({"queries": 2}, {"queries": [2]}),
    "the mean": ({"average_heads": True}, {"average_heads": True}),
    "scores": ({"stage": "scores"}, {"stage": pb.ATTN_WEIGHTS_STAGE_SCORES}),
}


@pytest.mark.parametrize(("parameters", "selection"), SELECTIONS.values(), ids=SELECTIONS)
def test_weights_are_selected_by_parameters(triton, forward, parameters, selection):
    wanted = outputs_of("attn_weights.0", "attn_weights.1")
    response = triton.infer("bert", ids_of(), outputs=wanted, parameters=parameters)
    request = f.ForwardRequest(model="bert", token_ids=to_tensor(IDS), lengths=[4, 3])
    request.attn_weights.extend([weights_of(0, **selection), weights_of(1, **selection)])
    for number, weights in enumerate(forward(request).attn_weights):
        expected = to_array(weights.attn_weights)
        np.testing.assert_array_equal(response.as_numpy(f"attn_weights.{number}"), expected)


def test_an_output_has_parameters_of_its_own(triton):
    wanted = outputs_of("attn_weights.0", "attn_weights.1", "top_keys.1")
    for output in wanted[1:]:
        output._output.parameters["top_k"].int64_param = 2
        output._output.parameters["heads"].string_param = "3"
    response = triton.infer("bert", ids_of(), outputs=wanted, parameters={"heads": "0,1"})
    assert response.as_numpy("attn_weights.0").shape == (2, 2, 4, 4)
    assert response.as_numpy("attn_weights.1").shape == (2, 1, 4, 2)
    top_keys = response.as_numpy("top_keys.1")
    assert (top_keys.shape, top_keys.dtype) == ((2, 1, 4, 2), np.int32)


def test_streams_of_both_clients(served, triton):
    expected = triton.infer("texts", texts_of("the bank")).as_numpy("output")
    answers = queue.Queue()
    triton.start_stream(lambda result, error: answers.put((result, error)))
    for number, text in enumerate(("the bank", " ", "the bank")):
        triton.async_stream_infer("texts", texts_of(text), request_id=str(number))
    streamed = [answers.get(timeout=30) for _ in range(3)]
    triton.stop_stream()
    assert "text[0]: is empty" in streamed[1][1].message()
    for result, error in streamed[::2]:
        assert error is None
        np.testing.assert_array_equal(result.as_numpy("output"), expected)

    async def infer():
        async with stock_aio.InferenceServerClient(served.target) as client:
            return await client.infer("texts", texts_of("the bank"))

    np.testing.assert_array_equal(asyncio.run(infer()).as_numpy("output"), expected)


def test_metadata_and_configuration(triton, served):
    metadata = triton.get_model_metadata("texts")
    inputs = {tensor.name: (tensor.datatype, list(tensor.shape)) for tensor in metadata.inputs}
    assert inputs == {"text": ("BYTES", [-1, 1])}
    outputs = {tensor.name: (tensor.datatype, list(tensor.shape)) for tensor in metadata.outputs}
    assert outputs == {
        "output": ("FP32", [-1, -1, 64]),
        **{f"hidden_states.{number}": ("FP32", [-1, -1, 64]) for number in range(3)},
        **{f"attn_weights.{number}": ("FP32", [-1, -1, -1, -1]) for number in range(2)},
    }
    config = triton.get_model_config("texts").config
    assert config.max_batch_size > 1
    for described, listed in ((metadata.inputs, config.input), (metadata.outputs, config.output)):
        assert [tensor.name for tensor in listed] == [tensor.name for tensor in described]
        for tensor, other in zip(listed, described, strict=True):
            assert list(tensor.dims) == list(other.shape)[1:]
    [tensor] = triton.get_model_metadata("bert").inputs
    assert (tensor.name, tensor.datatype, list(tensor.shape)) == ("input_ids", "INT64", [-1, -1])
    with grpc.insecure_channel(served.target) as channel:
        method = channel.unary_unary("/inference.GRPCInferenceService/ModelMetadata")
        request = grpc_inference_pb2.ModelMetadataRequest(name="texts")
        reply = method(request.SerializeToString())
    properties = grpc_inference_pb2.ModelMetadataResponse.FromString(reply).properties
    assert properties["optional_inputs"] == (
        "text_pair BYTES [-1, 1]; input_ids INT64 [-1, -1]; token_type_ids INT64 [-1, -1]; "
        "hidden_states FP32 [-1, -1, 64]; attention_mask INT64 [-1, -1]"
    )
    assert {"heads", "first_layer", "timeout"} <= {*properties["parameters"].split(", ")}
    for name in ("last_hidden_state", "top_keys.1", "queries.1", "lengths", "tokens", "input_ids"):
        assert f"{name} " in properties["optional_outputs"]


def test_statistics_count_both_protocols(repository):
    with running_server(repository, threads=1) as server:
        with grpc.insecure_channel(server.target) as channel:
            request = f.ForwardRequest(model="bert", token_ids=to_tensor(IDS))
            attention_pb2_grpc.AttentionServiceStub(channel).Forward(request)
        with stock.InferenceServerClient(server.target) as client:
            client.infer("bert", ids_of())
            with pytest.raises(stock.InferenceServerException):
                client.infer("bert", ids_of(IDS + 100))
            [stats] = client.get_inference_statistics("bert").model_stats
    assert (stats.inference_count, stats.execution_count) == (4, 2)
    counts = stats.inference_stats
    assert (counts.success.count, counts.queue.count, counts.fail.count) == (2, 2, 1)
