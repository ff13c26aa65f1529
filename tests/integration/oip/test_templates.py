"""ModelInfer recognises requests by their templates: no request is answered by another's plan."""

from __future__ import annotations

import itertools
import random

import grpc
import hypothesis
import numpy as np
import pytest
from google.protobuf.message import DecodeError
from hypothesis import strategies as st
from raw_calls import channel_that_outlives, embeddings, read_refusal

from polyhead_server.inference import grpc_inference_pb2 as pb

INFER = "/inference.GRPCInferenceService/ModelInfer"


@pytest.fixture
def channel(server):
    with channel_that_outlives(server) as channel:
        yield channel


def infer(channel, data):
    """Send bytes as they are, and return the outputs by name and the id."""
    response = pb.ModelInferResponse.FromString(channel.unary_unary(INFER)(data, timeout=30))
    outputs = {
        output.name: np.frombuffer(raw, np.float32).reshape(output.shape)
        for output, raw in zip(response.outputs, response.raw_output_contents, strict=True)
    }
    return outputs, response.id


def refusal(channel, data):
    with pytest.raises(grpc.RpcError) as caught:
        infer(channel, data)
    return read_refusal(caught.value)


NAMES = {np.dtype(np.float32): "FP32", np.dtype(np.int32): "INT32", np.dtype(np.int64): "INT64"}


def request(arrays, **fields):
    """Make a request with raw contents, its inputs in the order of ``arrays``."""
    inputs = [
        pb.ModelInferRequest.InferInputTensor(
            name=name, datatype=NAMES[array.dtype], shape=array.shape
        )
        for name, array in arrays.items()
    ]
    raws = [array.tobytes() for array in arrays.values()]
    given = {"model_name": "plain", "inputs": inputs, "raw_input_contents": raws} | fields
    return pb.ModelInferRequest(**given)


def typed(query, **fields):
    """Make a request with typed contents."""
    given = pb.ModelInferRequest.InferInputTensor(name="query", datatype="FP32", shape=query.shape)
    given.contents.fp32_contents.extend(query.ravel().tolist())
    return pb.ModelInferRequest(model_name="plain", inputs=[given], **fields)


QUERY = embeddings(2, 5, 16)


@pytest.mark.parametrize("dtype", [np.int32, np.int64])
@pytest.mark.parametrize("is_first", [True, False])
def test_other_lengths_are_another_plan(channel, client, dtype, is_first):
    """Though such requests differ in the raw contents of an input only."""
    lengths = [[5, 2], [2, 5], [5, 5], [1, 1], [0, 3]]
    for given in random.Random(0).sample(lengths * 3, 15):
        arrays = {"query": QUERY, "kv_lengths": np.array(given, dtype)}
        data = request(dict(reversed(arrays.items())) if is_first else arrays).SerializeToString()
        outputs, _ = infer(channel, data)
        expected = client.attend(QUERY, model="plain", kv_lengths=given).output
        np.testing.assert_allclose(outputs["output"], expected, rtol=0, atol=1e-6)


def test_lengths_that_do_not_fit_are_refused_where_others_are_known(channel):
    def with_lengths(*lengths):
        arrays = {"query": QUERY, "kv_lengths": np.array(lengths, np.int64)}
        return request(arrays).SerializeToString()

    assert infer(channel, with_lengths(4, 2))
    for lengths, reason in (((6, 2), "OUT_OF_RANGE"), ((-1, 2), "OUT_OF_RANGE")):
        for _ in range(2):
            assert refusal(channel, with_lengths(*lengths)).reason == reason
    assert infer(channel, with_lengths(4, 2))


def test_inputs_and_outputs_in_any_order(channel, client):
    arrays = {
        "query": QUERY,
        "key": embeddings(2, 5, 16, seed=1),
        "value": embeddings(2, 5, 16, seed=2),
    }
    expected = client.attend(**arrays, model="plain", need_weights=True)
    for _ in range(2):
        for order in itertools.permutations(arrays):
            for names in (["output", "attn_weights"], ["attn_weights", "output"]):
                wanted = [pb.ModelInferRequest.InferRequestedOutputTensor(name=n) for n in names]
                message = request({name: arrays[name] for name in order}, outputs=wanted)
                outputs, _ = infer(channel, message.SerializeToString())
                assert list(outputs) == names
                for name in names:
                    np.testing.assert_allclose(
                        outputs[name], getattr(expected, name), rtol=0, atol=1e-6
                    )


def test_typed_contents_share_the_plan_of_raw_ones_and_not_their_numbers(channel, client):
    for seed in range(3):
        query = embeddings(2, 5, 16, seed=seed)
        expected = client.attend(query, model="plain").output
        for message in (typed(query, id="t"), request({"query": query}, id="r")):
            outputs, request_id = infer(channel, message.SerializeToString())
            assert request_id == message.id
            np.testing.assert_allclose(outputs["output"], expected, rtol=0, atol=1e-6)


def test_an_id_that_is_no_text_is_malformed_whether_its_template_is_known_or_not(channel):
    query = embeddings(1, 7, 16)
    good = request({"query": query}, id="ab").SerializeToString()
    bad = good.replace(b"ab", b"\xff\xfe")
    refusals = [refusal(channel, bad)]
    assert infer(channel, good)[1] == "ab"
    refusals.append(refusal(channel, bad))
    bad_typed = typed(query, id="ab").SerializeToString().replace(b"ab", b"\xff\xfe")
    refusals.append(refusal(channel, bad_typed))
    for each in refusals:
        assert (each.code, each.reason) == ("INVALID_ARGUMENT", "MALFORMED")
        assert each.message == refusals[0].message


def test_more_raw_contents_than_a_template_has_are_refused(channel):
    for count, reason in ((2, "COUNT_MISMATCH"), (32, "COUNT_MISMATCH"), (33, "TOO_MANY")):
        message = request({"query": QUERY})
        message.raw_input_contents.extend([b""] * (count - 1))
        for _ in range(2):
            refused = refusal(channel, message.SerializeToString())
            assert (refused.reason, refused.field) == (reason, "raw_input_contents")


GOOD = request({"query": QUERY[:1], "kv_lengths": np.array([3], np.int64)}, id="ab")
GOOD_BYTES = GOOD.SerializeToString()
OUTSIDE = len(GOOD_BYTES) - len(QUERY[:1].tobytes())


@hypothesis.settings(
    max_examples=100,
    deadline=None,
    suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture],
)
@hypothesis.given(
    st.lists(
        st.tuples(
            st.sampled_from(["flip", "insert", "delete"]),
            st.integers(0, OUTSIDE) | st.integers(1, 20).map(lambda n: -n),
            st.integers(1, 255),
        ),
        min_size=1,
        max_size=3,
    )
)
def test_a_mutated_request_is_refused_or_answered_as_protobuf_reads_it(channel, mutations):
    assert infer(channel, GOOD_BYTES)  # its template is known
    data = bytearray(GOOD_BYTES)
    for kind, at, byte in mutations:
        match kind:
            case "flip":
                data[at] ^= byte
            case "insert":
                data.insert(at, byte)
            case "delete":
                del data[at]
    data = bytes(data)
    try:
        message = pb.ModelInferRequest.FromString(data)
    except DecodeError:
        assert refusal(channel, data).reason == "MALFORMED"
        return
    message.DiscardUnknownFields()
    outcomes = []
    for each in (data, message.SerializeToString()):
        try:
            outputs, request_id = infer(channel, each)
            outcomes.append(({n: array.tobytes() for n, array in outputs.items()}, request_id))
        except grpc.RpcError as error:
            read = read_refusal(error)
            assert read.code in {"INVALID_ARGUMENT", "NOT_FOUND"}
            outcomes.append((read.reason, read.field))
    assert outcomes[0] == outcomes[1]
