"""Attention blocks over the Open Inference Protocol: what tritonclient gets is what Client gets."""

from __future__ import annotations

import queue

import grpc
import numpy as np
import pytest
from tritonclient_requests import inputs_of, outputs_of, service_pb2, service_pb2_grpc, stock

import polyhead
from polyhead import Weights
from polyhead_server.inference import grpc_inference_pb2


def assert_same(response, result, *names):
    for name in names:
        expected = getattr(result, name)
        got = response.as_numpy(name)
        assert got.dtype == expected.dtype
        np.testing.assert_array_equal(got, expected)


def test_the_server_and_its_models_are_there(stock_client):
    assert stock_client.is_server_live()
    assert stock_client.is_server_ready()
    assert stock_client.is_model_ready("plain")
    assert stock_client.is_model_ready("plain", "1")
    with pytest.raises(stock.InferenceServerException, match="no model 'missing'") as caught:
        stock_client.is_model_ready("missing")
    assert caught.value.status() == "StatusCode.NOT_FOUND"


def test_metadata_and_configuration(stock_client):
    server = stock_client.get_server_metadata()
    assert (server.name, server.version) == ("polyhead", polyhead.__version__)
    assert "statistics" in server.extensions
    metadata = stock_client.get_model_metadata("plain")
    assert (metadata.name, list(metadata.versions)) == ("plain", ["1"])
    shapes = {tensor.name: (tensor.datatype, list(tensor.shape)) for tensor in metadata.inputs}
    assert shapes == {"query": ("FP32", [-1, -1, 16])}
    assert [tensor.name for tensor in metadata.outputs] == ["output", "attn_weights"]
    config = stock_client.get_model_config("plain").config
    assert config.max_batch_size > 0
    assert not config.model_transaction_policy.decoupled
    for described, listed in ((metadata.inputs, config.input), (metadata.outputs, config.output)):
        assert [tensor.name for tensor in listed] == [tensor.name for tensor in described]
        for tensor, other in zip(listed, described, strict=True):
            assert list(tensor.dims) == list(other.shape)[1:]
    cross = stock_client.get_model_metadata("cross")
    assert [tensor.name for tensor in cross.inputs] == ["query", "key", "value"]


def test_optional_tensors_are_listed_in_the_properties(server):
    asked = grpc_inference_pb2.ModelMetadataRequest(name="plain").SerializeToString()
    with grpc.insecure_channel(server.target) as channel:
        reply = channel.unary_unary("/inference.GRPCInferenceService/ModelMetadata")(asked)
    properties = grpc_inference_pb2.ModelMetadataResponse.FromString(reply).properties
    for name in ("key", "value", "attn_mask", "kv_lengths"):
        assert f"{name} " in properties["optional_inputs"]
    heads = [f"head_{kind} FP32 [-1, 4, -1, 4]" for kind in ("query", "key", "value", "context")]
    optional = ["top_keys INT32 [-1, -1, -1, -1]", *heads]
    assert properties["optional_outputs"] == "; ".join(optional)


def test_only_requested_outputs_are_computed(stock_client, client, draw):
    query = draw(2, 5, 16)
    expected = client.attend(query, model="plain", need_weights=True)
    given = inputs_of({"query": query})
    by_default = stock_client.infer("plain", given, request_id="r-1")
    assert [output.name for output in by_default.get_response().outputs] == ["output"]
    assert by_default.get_response().id == "r-1"
    assert by_default.get_response().model_version == "1"
    both = stock_client.infer("plain", given, outputs=outputs_of("attn_weights", "output"))
    assert [output.name for output in both.get_response().outputs] == ["attn_weights", "output"]
    assert_same(both, expected, "output", "attn_weights")
    alone = stock_client.infer("plain", given, outputs=outputs_of("attn_weights"))
    assert [output.name for output in alone.get_response().outputs] == ["attn_weights"]
    weights = client.attend(query, model="plain", need_weights=True, need_output=False)
    assert_same(alone, weights, "attn_weights")


SELECTIONS = {
    "heads": ({"heads": "1,0"}, Weights(heads=(1, 0))),
    "one head": ({"heads": 1}, Weights(heads=1)),
    "queries": ({"queries": "[4, 0]"}, Weights(queries=(4, 0))),
    "scores": ({"stage": "scores"}, Weights(stage="scores")),
    "mean": (
        {"average_heads": True, "stage": "masked"},
        Weights(average_heads=True, stage="masked"),
    ),
}


@pytest.mark.parametrize(("parameters", "wish"), SELECTIONS.values(), ids=SELECTIONS)
def test_weights_are_selected_by_parameters(stock_client, client, draw, parameters, wish):
    query = draw(2, 5, 16)
    response = stock_client.infer(
        "plain",
        inputs_of({"query": query}),
        outputs=outputs_of("output", "attn_weights"),
        parameters=parameters,
    )
    assert_same(
        response, client.attend(query, model="plain", need_weights=wish), "output", "attn_weights"
    )


def test_the_keys_of_the_largest_weights(stock_client, client, draw):
    query = draw(1, 6, 16)
    names = "output", "attn_weights", "top_keys"
    response = stock_client.infer(
        "plain", inputs_of({"query": query}), outputs=outputs_of(*names), parameters={"top_k": 2}
    )
    expected = client.attend(query, model="plain", need_weights=Weights(top_k=2))
    assert_same(response, expected, *names)


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_other_floats_come_back_as_they_went(stock_client, client, draw, dtype):
    query = draw(1, 4, 16).astype(dtype)
    response = stock_client.infer("plain", inputs_of({"query": query}))
    assert_same(response, client.attend(query, model="plain"), "output")


def test_keys_values_masks_and_lengths(stock_client, client, draw):
    arrays = {"query": draw(2, 3, 16), "key": draw(2, 5, 16), "value": draw(2, 5, 16)}
    expected = client.attend(model="plain", **arrays)
    assert_same(stock_client.infer("plain", inputs_of(arrays)), expected, "output")
    mask = np.random.default_rng(0).random((2, 1, 3, 5)) < 0.7
    expected = client.attend(model="plain", attn_mask=mask, **arrays)
    response = stock_client.infer("plain", inputs_of(arrays | {"attn_mask": mask}))
    assert_same(response, expected, "output")
    for lengths in ([5, 2], [0, 4], [5, 5]):
        for dtype in (np.int32, np.int64):
            expected = client.attend(model="plain", kv_lengths=lengths, **arrays)
            response = stock_client.infer(
                "plain", inputs_of(arrays | {"kv_lengths": np.array(lengths, dtype)})
            )
            assert_same(response, expected, "output")


def test_async_and_many_at_once(stock_client, client, draw):
    queries = [draw(1, 1 + n % 5, 16) for n in range(40)]
    answers = queue.Queue()
    for number, query in enumerate(queries):
        stock_client.async_infer(
            "plain",
            inputs_of({"query": query}),
            lambda result, error, number=number: answers.put((number, result, error)),
        )
    for _ in queries:
        number, result, error = answers.get(timeout=30)
        assert error is None
        assert_same(result, client.attend(queries[number], model="plain"), "output")


def test_a_stream_answers_in_order_and_goes_on_after_errors(stock_client, client, draw):
    answers = queue.Queue()
    stock_client.start_stream(lambda result, error: answers.put((result, error)))
    queries = [draw(1, 1 + n % 7, 16) for n in range(30)]
    queries[7] = draw(1, 3, 5)  # too narrow
    queries[8][0, 0, 0] = np.nan
    for number, query in enumerate(queries):
        stock_client.async_stream_infer(
            "plain", inputs_of({"query": query}), request_id=f"{number}"
        )
    for number, query in enumerate(queries):
        result, error = answers.get(timeout=30)
        if number in (7, 8):
            assert result is None
            assert "query" in error.message()
        else:
            assert error is None
            assert result.get_response().id == str(number)
            assert_same(result, client.attend(query, model="plain"), "output")
    stock_client.stop_stream()
    assert answers.empty()


def test_the_asynchronous_client(with_stock_aio, client, draw):
    query = draw(2, 5, 16)
    expected = client.attend(query, model="plain")

    async def scenario(stock_client):
        assert await stock_client.is_server_live()
        assert await stock_client.is_model_ready("plain")
        assert (await stock_client.get_model_metadata("plain")).name == "plain"
        response = await stock_client.infer("plain", inputs_of({"query": query}))

        async def requests():
            for number in range(5):
                yield {
                    "model_name": "plain",
                    "inputs": inputs_of({"query": query}),
                    "request_id": f"s{number}",
                }

        streamed = []
        async for result, error in stock_client.stream_infer(requests()):
            assert error is None
            streamed.append(result)
        return response, streamed

    response, streamed = with_stock_aio(scenario)
    assert_same(response, expected, "output")
    assert [result.get_response().id for result in streamed] == [f"s{n}" for n in range(5)]
    for result in streamed:
        assert_same(result, expected, "output")


def test_the_repository_is_listed(stock_client, blocks):
    listed = {model.name: model for model in stock_client.get_model_repository_index().models}
    assert listed.keys() == blocks.keys()
    assert {(model.version, model.state, model.reason) for model in listed.values()} == {
        ("1", "READY", "")
    }


def infer_raw(server, **fields):
    with grpc.insecure_channel(server.target) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        return stub.ModelInfer(service_pb2.ModelInferRequest(**fields))


def tensor(name, shape, datatype="FP32", **contents):
    return service_pb2.ModelInferRequest.InferInputTensor(
        name=name,
        datatype=datatype,
        shape=shape,
        contents=service_pb2.InferTensorContents(**contents) if contents else None,
    )


def test_typed_contents(server, client, draw):
    query, mask = draw(1, 3, 16), np.array([[True, False, True]])
    response = infer_raw(
        server,
        model_name="plain",
        inputs=[
            tensor("query", query.shape, fp32_contents=query.ravel()),
            tensor("attn_mask", mask.shape, "BOOL", bool_contents=mask.ravel()),
            tensor("kv_lengths", [1], "INT64", int64_contents=[2]),
        ],
    )
    expected = client.attend(query, model="plain", attn_mask=mask, kv_lengths=[2])
    (raw,) = response.raw_output_contents
    assert raw == expected.output.tobytes()
    assert not response.outputs[0].HasField("contents")
    as_doubles = infer_raw(
        server,
        model_name="plain",
        inputs=[tensor("query", query.shape, "FP64", fp64_contents=query.ravel())],
    )
    assert as_doubles.outputs[0].datatype == "FP64"


QUERY = np.ones((1, 2, 16), np.float32)
RAW = QUERY.tobytes()
GOOD = {"inputs": [tensor("query", [1, 2, 16])], "raw_input_contents": [RAW]}
WRONG = {
    "a missing input": ({"inputs": [], "raw_input_contents": []}, "query"),
    "a shape": (GOOD | {"inputs": [tensor("query", [1, 4, 8])]}, "query.shape"),
    "a rank": (GOOD | {"inputs": [tensor("query", [32])]}, "query.shape"),
    "too few bytes": (GOOD | {"raw_input_contents": [RAW[4:]]}, "query.data"),
    "a dtype": (GOOD | {"inputs": [tensor("query", [1, 2, 16], "INT32")]}, "query.dtype"),
    "no dtype": (GOOD | {"inputs": [tensor("query", [1, 2, 16], "")]}, "query.datatype"),
    "an unknown input": (GOOD | {"inputs": [tensor("hidden", [1, 2, 16])]}, "'hidden'"),
    "an input twice": (
        {"inputs": [tensor("query", [1, 2, 16])] * 2, "raw_input_contents": [RAW, RAW]},
        "given twice",
    ),
    "an unknown output": (
        GOOD | {"outputs": [service_pb2.ModelInferRequest.InferRequestedOutputTensor(name="x")]},
        "outputs[0].name",
    ),
    "too many raws": (GOOD | {"raw_input_contents": [RAW, RAW]}, "raw_input_contents"),
    "very many raws": (GOOD | {"raw_input_contents": [RAW] * 40}, "raw_input_contents"),
    "raw and typed": (
        GOOD | {"inputs": [tensor("query", [1, 2, 16], fp32_contents=[1] * 32)]},
        "query.contents",
    ),
    "typed of another type": (
        {"inputs": [tensor("query", [1, 2, 16], int_contents=[1] * 32)]}, "fp32_contents",
    ),
    "too few typed": (
        {"inputs": [tensor("query", [1, 2, 16], fp32_contents=[1] * 31)]}, "query.data",
    ),
    "typed halves": (
        {"inputs": [tensor("query", [1, 2, 16], "FP16", fp32_contents=[1] * 32)]}, "query.contents",
    ),
    "a version": (GOOD | {"model_version": "newest"}, "model_version"),
    "heads without weights": (
        GOOD | {"parameters": {"heads": service_pb2.InferParameter(string_param="0")}},
        "parameters.heads",
    ),
    "a long id": (GOOD | {"id": "x" * 300}, "id"),
}  # fmt: skip


@pytest.mark.parametrize(("fields", "named"), WRONG.values(), ids=WRONG)
def test_what_is_wrong_is_named(server, fields, named):
    with pytest.raises(grpc.RpcError) as caught:
        infer_raw(server, model_name="plain", **fields)
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert named in caught.value.details()


MISFITS = {"heads": "a", "queries": "0,0", "top_k": 1.5, "stage": "x", "average_heads": 1}


@pytest.mark.parametrize(
    "parameters", [{name: value} for name, value in MISFITS.items()], ids=MISFITS
)
def test_wrong_parameters_are_named(stock_client, parameters):
    (name,) = parameters
    with pytest.raises(stock.InferenceServerException, match=name) as caught:
        stock_client.infer(
            "plain",
            inputs_of({"query": QUERY}),
            outputs=outputs_of("attn_weights"),
            parameters=parameters,
        )
    assert caught.value.status() == "StatusCode.INVALID_ARGUMENT"


@pytest.mark.parametrize("ask", ["infer", "get_model_metadata", "get_model_config"])
def test_unknown_models_and_versions_are_not_found(stock_client, ask):
    more = [inputs_of({"query": QUERY})] if ask == "infer" else []
    for given in ({"model_name": "missing"}, {"model_name": "plain", "model_version": "9"}):
        named = given | ({"inputs": more[0]} if more else {})
        with pytest.raises(stock.InferenceServerException) as caught:
            getattr(stock_client, ask)(**named)
        assert caught.value.status() == "StatusCode.NOT_FOUND"


def test_a_timeout_of_the_callers_own(stock_client, draw):
    given = inputs_of({"query": draw(1, 4, 16)})
    assert stock_client.infer("plain", given, timeout=10_000_000).as_numpy("output") is not None


@pytest.mark.parametrize("datatype", ["FP32", "FP16"])
def test_memory_is_not_shared(stock_client, draw, datatype):
    shared = stock.InferInput("query", [1, 2, 16], datatype)
    shared.set_shared_memory("region", 128)
    wanted = stock.InferRequestedOutput("output")
    wanted.set_shared_memory("region", 128)
    for given, outputs in (
        ([shared], None),
        (inputs_of({"query": draw(1, 2, 16)}), [wanted]),
    ):
        with pytest.raises(stock.InferenceServerException, match="shares no memory") as caught:
            stock_client.infer("plain", given, outputs=outputs)
        assert caught.value.status() == "StatusCode.INVALID_ARGUMENT"


def test_messages_beyond_grpcs_usual_four_megabytes(stock_client, client, draw):
    query = draw(10_000, 16, 16)  # 10 MB, and as much back
    response = stock_client.infer("plain", inputs_of({"query": query}))
    assert_same(response, client.attend(query, model="plain"), "output")


@pytest.mark.parametrize("compression", ["gzip", "deflate"])
def test_compressed_requests_are_refused_by_name(stock_client, draw, compression):
    given = inputs_of({"query": draw(1, 3, 16)})
    with pytest.raises(
        stock.InferenceServerException, match=f"'{compression}' is disabled"
    ) as caught:
        stock_client.infer("plain", given, compression_algorithm=compression)
    assert caught.value.status() == "StatusCode.UNIMPLEMENTED"


def test_vectors_of_heads_are_outputs(stock_client, client):
    query = np.random.default_rng(0).standard_normal((2, 5, 16)).astype(np.float32)
    kinds = ("context", "key", "query", "value")
    names = [f"head_{kind}" for kind in kinds]
    response = stock_client.infer(
        "grouped", inputs_of({"query": query}), outputs=outputs_of(*names)
    )
    expected = client.attend(query, model="grouped", head_vectors=polyhead.Vectors(kinds=kinds))
    assert response.as_numpy("output") is None
    for name, kind in zip(names, kinds, strict=True):
        array = getattr(expected.head_vectors, kind)
        np.testing.assert_allclose(response.as_numpy(name), array, atol=1e-6)
    response = stock_client.infer(
        "grouped", inputs_of({"query": query}), outputs=outputs_of("output", "head_key")
    )
    np.testing.assert_allclose(response.as_numpy("output"), expected.output, atol=1e-6)
