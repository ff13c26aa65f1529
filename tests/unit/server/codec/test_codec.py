"""Messages to values and back: every field, every dtype, both layouts of heads."""

from __future__ import annotations

import numpy as np
import pytest
from decoding import Decoder

from polyhead.v1 import attention_pb2 as pb
from polyhead.wire.tensors import to_array, to_tensor
from polyhead_server.call import (
    AttentionOutputs,
    ExecutionInfo,
    Stage,
    Timing,
    WeightsSelection,
)
from polyhead_server.errors import InvalidRequestError

EXECUTED_BY = ExecutionInfo("m", 3, "CPUExecutionProvider")
TIMING = Timing(1.5, 2.5, 2)
QUERY = np.arange(24, dtype=np.float32).reshape(2, 3, 4)


def message(**fields):
    return pb.AttendRequest(**({"model": "m", "query": to_tensor(QUERY)} | fields))


def received(**fields):
    return Decoder().attend(message(**fields).SerializeToString())


def decoded(**fields):
    return received(**fields).call


def received_rows(call, rows_per_block=0):
    """Read a request for rows, and how many a block shall have."""
    message = pb.AttendRowsRequest(call=call, rows_per_block=rows_per_block)
    return Decoder().attend_rows(message.SerializeToString())


def refusal(**fields):
    with pytest.raises(InvalidRequestError) as caught:
        decoded(**fields)
    return caught.value


def test_defaults():
    request = received()
    call = request.call
    assert (call.model, call.model_version, request.request_id) == ("m", 0, "")
    assert call.output_dtype == pb.DATA_TYPE_FLOAT
    assert call.need_output
    for field in ("key", "value", "attn_mask", "weights", "positions", "key_positions"):
        assert getattr(call, field) is None
    assert decoded(attn_weights={}).weights == WeightsSelection()


def test_every_field():
    positions = np.array([5, 6, 7], np.int32)
    key_positions = np.arange(8, dtype=np.int64).reshape(2, 4)
    request = received(
        model_version=2,
        request_id="id",
        key=to_tensor(np.ones((2, 4, 4), np.float16)),
        value=to_tensor(np.ones((2, 4, 4))),
        attn_mask=to_tensor(np.ones((3, 4), bool)),
        kv_lengths=[4, 2],
        attn_weights=pb.AttnWeightsSelection(
            heads=[1, 0],
            queries=[2],
            top_k=3,
            average_heads=True,
            stage=pb.ATTN_WEIGHTS_STAGE_MASKED,
            dtype=pb.DATA_TYPE_FLOAT16,
        ),
        output_dtype=pb.DATA_TYPE_DOUBLE,
        positions=to_tensor(positions),
        key_positions=to_tensor(key_positions),
        omit_output=True,
    )
    call, arrays = request.call, request.arrays()
    assert (call.model_version, request.request_id) == (2, "id")
    assert call.weights == WeightsSelection(
        heads=(1, 0),
        queries=(2,),
        top_k=3,
        average_heads=True,
        stage=Stage.MASKED,
        dtype=pb.DATA_TYPE_FLOAT16,
    )
    np.testing.assert_array_equal(arrays["positions"], positions)
    np.testing.assert_array_equal(arrays["key_positions"], key_positions)
    assert not call.need_output
    dtypes = [arrays[name].dtype for name in ("key", "value", "attn_mask")]
    assert dtypes == [np.float16, float, bool]
    assert call.key.shape == arrays["key"].shape == (2, 4, 4)
    assert (call.kv_lengths, call.output_dtype) == ((4, 2), pb.DATA_TYPE_DOUBLE)


@pytest.mark.parametrize("stage", Stage)
def test_stages_have_the_contracts_numbers(stage):
    name = f"ATTN_WEIGHTS_STAGE_{stage.name}"
    assert pb.AttnWeightsStage.Value(name) == stage
    assert decoded(attn_weights={"stage": name}).weights.stage == stage


@pytest.mark.parametrize("stage", [4, -1, 2**31 - 1])
def test_an_unknown_stage(stage):
    error = refusal(attn_weights=pb.AttnWeightsSelection(stage=stage))
    assert (error.field, error.reason) == ("attn_weights.stage", "INVALID_VALUE")
    assert "WEIGHTS, SCORES, MASKED" in error.message


@pytest.mark.parametrize(
    ("field", "array", "expected"),
    [
        (
            "query",
            np.ones((1, 2, 4), bool),
            "expected FLOAT, FLOAT16, BFLOAT16 or DOUBLE; got BOOL",
        ),
        ("key", np.ones((1, 2, 4), np.int32), "got INT32"),
        ("value", np.ones((1, 2, 4), np.int64), "got INT64"),
        ("attn_mask", np.ones((1, 2, 4), np.int32), "expected BOOL, FLOAT, FLOAT16"),
        ("positions", np.ones(3, np.float32), "expected INT32 or INT64; got FLOAT"),
        ("key_positions", np.ones(3, bool), "expected INT32 or INT64; got BOOL"),
    ],
)
def test_dtypes_that_a_field_does_not_take(field, array, expected):
    error = refusal(**{field: to_tensor(array)})
    assert (error.field, error.reason) == (f"{field}.dtype", "UNSUPPORTED_DTYPE")
    assert expected in error.message


@pytest.mark.parametrize("dtype", [pb.DATA_TYPE_BOOL, pb.DATA_TYPE_INT32, 99, -1])
def test_dtypes_that_hold_no_weights(dtype):
    error = refusal(attn_weights=pb.AttnWeightsSelection(dtype=dtype))
    assert (error.field, error.reason) == ("attn_weights.dtype", "UNSUPPORTED_DTYPE")


@pytest.mark.parametrize("field", ["heads", "queries"])
def test_too_many_entries(field):
    error = refusal(attn_weights=pb.AttnWeightsSelection(**{field: [0] * ((1 << 20) + 1)}))
    assert (error.field, error.reason) == (f"attn_weights.{field}", "TOO_MANY")


def test_a_request_for_rows_is_a_call_and_a_number():
    request, rows_per_block = received_rows(message(request_id="id"), 5)
    assert (request.request_id, rows_per_block) == ("id", 5)
    np.testing.assert_array_equal(request.arrays()["query"], QUERY)


@pytest.mark.parametrize(
    ("call", "field", "reason"),
    [
        (None, "call.query", "REQUIRED"),
        (message(query=to_tensor(np.ones(3, bool))), "call.query.dtype", "UNSUPPORTED_DTYPE"),
        (message(request_id="x" * 300), "call.request_id", "INVALID_VALUE"),
        (message(key={"dtype": 1, "shape": [2]}), "call.key.data", "BYTE_SIZE_MISMATCH"),
    ],
)
def test_paths_of_errors_in_rows_lead_through_the_call(call, field, reason):
    with pytest.raises(InvalidRequestError) as caught:
        received_rows(call)
    assert (caught.value.field, caught.value.reason) == (field, reason)
    assert caught.value.message.startswith(f"{field}: ")


def test_a_bool_that_is_not_0_or_1_is_refused_when_the_arrays_are_read():
    mask = {"dtype": pb.DATA_TYPE_BOOL, "shape": [2], "data": b"\0\2"}
    for request, field in (
        (received(attn_mask=mask), "attn_mask.data"),
        (received_rows(message(attn_mask=mask))[0], "call.attn_mask.data"),
    ):
        with pytest.raises(InvalidRequestError, match="got a byte of 2") as caught:
            request.arrays()
        assert (caught.value.field, caught.value.reason) == (field, "INVALID_VALUE")


def test_bytes_that_are_no_request_for_rows():
    with pytest.raises(InvalidRequestError) as caught:
        Decoder().attend_rows(b"\xff")
    assert (caught.value.field, caught.value.reason) == ("request", "MALFORMED")
    assert "AttendRowsRequest" in caught.value.message


# ---------------------------------------------------------------- responses


def outputs(**fields):
    given = {"output": QUERY, "attn_weights": None, "top_keys": None, "is_fused": False}
    return AttentionOutputs(**(given | fields))


def encoded(request, given):
    return pb.AttendResponse.FromString(request.respond(EXECUTED_BY, given, TIMING))


def test_a_response():
    response = encoded(received(request_id="id"), outputs(is_fused=True))
    np.testing.assert_array_equal(to_array(response.output), QUERY)
    assert not response.HasField("attn_weights")
    assert not response.HasField("top_keys")
    assert response.request_id == "id"
    assert response.execution == pb.Execution(
        model="m",
        model_version=3,
        provider="CPUExecutionProvider",
        kernel=pb.ATTENTION_KERNEL_FUSED,
        queue_ms=1.5,
        compute_ms=2.5,
        batch_size=2,
    )


def test_weights_without_output_and_their_keys():
    weights = np.linspace(0, 1, 2 * 1 * 3 * 2, dtype=np.float32).reshape(2, 1, 3, 2)
    keys = np.arange(12, dtype=np.int32).reshape(2, 1, 3, 2)
    request = received(attn_weights=pb.AttnWeightsSelection(top_k=2), omit_output=True)
    response = encoded(request, outputs(output=None, attn_weights=weights, top_keys=keys))
    assert not response.HasField("output")
    np.testing.assert_array_equal(to_array(response.attn_weights), weights)
    assert response.top_keys.dtype == pb.DATA_TYPE_INT32
    np.testing.assert_array_equal(to_array(response.top_keys), keys)
    assert response.execution.batch_size == 2


@pytest.mark.parametrize(
    ("output_dtype", "dtype", "expected"),
    [
        (0, 0, pb.DATA_TYPE_FLOAT),
        (pb.DATA_TYPE_DOUBLE, 0, pb.DATA_TYPE_DOUBLE),
        (pb.DATA_TYPE_DOUBLE, pb.DATA_TYPE_FLOAT16, pb.DATA_TYPE_FLOAT16),
        (0, pb.DATA_TYPE_BFLOAT16, pb.DATA_TYPE_BFLOAT16),
    ],
)
def test_weights_have_their_own_dtype_or_the_outputs(output_dtype, dtype, expected):
    request = received(output_dtype=output_dtype, attn_weights=pb.AttnWeightsSelection(dtype=dtype))
    response = encoded(request, outputs(attn_weights=np.ones((2, 1, 3, 3), np.float32)))
    assert response.attn_weights.dtype == expected
    assert response.output.dtype == (output_dtype or pb.DATA_TYPE_FLOAT)


def test_minus_infinity_is_written_in_float16():
    weights = np.array([[[[0.5, -np.inf]]]], np.float32)
    request = received(attn_weights=pb.AttnWeightsSelection(dtype=pb.DATA_TYPE_FLOAT16))
    response = encoded(request, outputs(attn_weights=weights))
    np.testing.assert_array_equal(to_array(response.attn_weights), weights)


def test_heads_that_were_sent_one_by_one_are_returned_one_by_one():
    request = received(query=to_tensor(np.ones((2, 2, 3, 4), np.float32)))  # 2 heads
    side_by_side = np.arange(2 * 3 * 2 * 5, dtype=np.float32).reshape(2, 3, 10)
    response = encoded(request, outputs(output=side_by_side))
    output = to_array(response.output)
    assert output.shape == (2, 2, 3, 5)
    np.testing.assert_array_equal(output[:, 0], side_by_side[..., :5])
    np.testing.assert_array_equal(output[:, 1], side_by_side[..., 5:])


def test_a_block_of_rows():
    request = received(attn_weights={})
    rows, _ = received_rows(message(attn_weights={}))
    given = outputs(output=QUERY[:, :2], attn_weights=np.ones((2, 1, 2, 3), np.float32))
    response = pb.AttendRowsResponse.FromString(rows.respond(EXECUTED_BY, 7, given, TIMING))
    assert response.first_row == 7
    assert response.block == encoded(request, given)
