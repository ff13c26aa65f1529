"""The Open Inference Protocol, as KServe, Triton's clients and others call it."""

from __future__ import annotations

import grpc
import pytest
from tests.contract import models
from tests.contract.arrays import assert_output, assert_weights, draw
from tests.contract.inference import PATH, TIMEOUT_S, arrays_of, call, infer, infer_request

from polyhead_models.reference import attention as reference
from polyhead_server.inference import grpc_inference_pb2 as oip

MODEL = "contract-plain"


def test_the_server_and_a_model_are_ready(channel):
    assert call(channel, "ServerLive").live
    assert call(channel, "ServerReady").ready
    assert call(channel, "ModelReady", name=MODEL).ready
    assert call(channel, "ModelReady", name=MODEL, version="1").ready


def test_metadata(channel):
    assert call(channel, "ServerMetadata").name == "polyhead"
    metadata = call(channel, "ModelMetadata", name=MODEL)
    assert (metadata.name, list(metadata.versions)) == (MODEL, ["1"])
    assert [(each.name, each.datatype, list(each.shape)) for each in metadata.inputs] == [
        ("query", "FP32", [-1, -1, 16])
    ]
    config = call(channel, "ModelConfig", name=MODEL).config
    assert [each.name for each in config.output] == [each.name for each in metadata.outputs]


def test_the_repository_is_listed(channel):
    index = call(channel, "RepositoryIndex", ready=True).models
    assert set(models.CONFIGURATIONS) <= {each.name for each in index if each.state == "READY"}


def test_inference(channel):
    query = draw(2, 5, 16)
    request = infer_request(MODEL, query, "output", "attn_weights", id="r-1")
    response = infer(channel, request)
    output, weights = reference.attend(models.blocks()[MODEL], query)
    got = arrays_of(response)
    assert (response.id, response.model_version) == ("r-1", "1")
    assert_output(got["output"], output)
    assert_weights(got["attn_weights"], weights)


def test_a_stream_is_answered_in_order(channel):
    queries = [draw(1, 2 + number, 16, seed=number) for number in range(4)]
    requests = [infer_request(MODEL, query, id=str(n)) for n, query in enumerate(queries)]
    requests.insert(2, infer_request(MODEL, draw(1, 2, 15), id="bad"))
    send = channel.stream_stream(
        f"{PATH}/ModelStreamInfer",
        oip.ModelInferRequest.SerializeToString,
        oip.ModelStreamInferResponse.FromString,
    )
    responses = list(send(iter(requests), timeout=TIMEOUT_S))
    assert [each.infer_response.id for each in responses] == ["0", "1", "bad", "2", "3"]
    assert responses.pop(2).error_message
    for query, each in zip(queries, responses, strict=True):
        expected, _ = reference.attend(models.blocks()[MODEL], query)
        assert_output(arrays_of(each.infer_response)["output"], expected)


def test_statistics_are_given(channel):
    [statistics] = call(channel, "ModelStatistics", name=MODEL).model_stats
    assert (statistics.name, statistics.version) == (MODEL, "1")


def test_models_are_not_changed_by_callers(channel):
    for method in ("RepositoryModelLoad", "RepositoryModelUnload"):
        with pytest.raises(grpc.RpcError) as caught:
            call(channel, method, model_name=MODEL)
        assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION
