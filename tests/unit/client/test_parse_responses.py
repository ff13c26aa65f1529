"""Responses become frozen results."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, fields

import ml_dtypes
import numpy as np
import pytest

from polyhead import ServerError, Weights, types
from polyhead._calls.request import prepare_call
from polyhead._calls.response import (
    parse_attend_response,
    parse_attend_responses,
    parse_attend_rows_response,
)
from polyhead._calls.response_format import ATTEND
from polyhead._client.descriptions import parse_change, parse_model, parse_server_info
from polyhead.v1 import attention_pb2 as pb
from polyhead.wire.tensors import to_tensor

OUTPUT = np.array([[[1.5, -2.0]]], np.float32)


def respond(output=OUTPUT, **more):
    return pb.AttendResponse(request_id="r", output=to_tensor(output), **more)


def parse(response, query=OUTPUT, output_dtype=None, **options):
    expected = prepare_call(query, model="m", output_dtype=output_dtype, **options).expected
    if isinstance(response, pb.AttendRowsResponse):
        data = response.SerializeToString()
        return parse_attend_rows_response(expected, data, response.first_row)
    return parse_attend_response(expected, response.SerializeToString())


def test_a_result_without_weights():
    execution = pb.Execution(
        model="m", model_version=3, provider="CPUExecutionProvider", queue_ms=1.5, compute_ms=2.5,
        batch_size=4, kernel=pb.ATTENTION_KERNEL_FUSED,
    )  # fmt: skip
    result = parse(respond(execution=execution))
    np.testing.assert_array_equal(result.output, OUTPUT)
    assert result.attn_weights is None
    assert result.request_id == "r"
    assert result.execution == types.Execution(
        model="m", model_version=3, provider="CPUExecutionProvider", kernel="fused",
        queue_ms=1.5, compute_ms=2.5, batch_size=4,
    )  # fmt: skip


def test_a_result_with_weights_shows_shapes_not_numbers():
    weights = np.full((1, 2, 1, 1), 0.12345, np.float16)
    result = parse(
        respond(
            attn_weights=to_tensor(weights),
            execution=pb.Execution(kernel=pb.ATTENTION_KERNEL_EXPLICIT),
        )
    )
    np.testing.assert_array_equal(result.attn_weights, weights)
    assert result.execution.kernel == "explicit"
    assert "output=<float32 (1, 1, 2)>" in repr(result)
    assert "attn_weights=<float16 (1, 2, 1, 1)>" in repr(result)
    assert "0.12" not in repr(result)


def test_results_are_frozen():
    result = parse(respond())
    with pytest.raises(FrozenInstanceError):
        result.output = OUTPUT
    with pytest.raises(ValueError, match="read-only"):
        result.output[...] = 0


@pytest.mark.parametrize(
    ("query_dtype", "output_dtype", "expected"),
    [
        (ml_dtypes.bfloat16, None, "bfloat16"),
        (ml_dtypes.bfloat16, "bfloat16", "bfloat16"),
        (np.float32, ml_dtypes.bfloat16, "bfloat16"),
        (np.float32, np.dtype(ml_dtypes.bfloat16), "bfloat16"),
        (np.float32, "bfloat16", "float32"),  # NumPy itself has none
    ],
)
def test_bfloat16_comes_back_as_the_callers_own_dtype(query_dtype, output_dtype, expected):
    response = respond()
    response.output.CopyFrom(to_tensor(OUTPUT, pb.DATA_TYPE_BFLOAT16))
    result = parse(response, OUTPUT.astype(query_dtype), output_dtype)
    assert result.output.dtype.name == expected
    assert not result.output.flags.writeable
    np.testing.assert_array_equal(result.output.astype(np.float32), OUTPUT)


def test_only_a_bfloat16_reply_is_made_bfloat16():
    result = parse(respond(), OUTPUT.astype(ml_dtypes.bfloat16), "float32")
    assert result.output.dtype == np.float32


def test_weights_may_be_bfloat16_where_the_output_is_not():
    response = respond(attn_weights=to_tensor(OUTPUT[None], pb.DATA_TYPE_BFLOAT16))
    result = parse(response, need_weights=Weights(dtype=ml_dtypes.bfloat16))
    assert result.attn_weights.dtype.name == "bfloat16"
    assert result.output.dtype == np.float32


def test_a_result_names_heads_and_queries_of_its_axes():
    query, key = np.ones((1, 9, 4)), np.ones((1, 7, 4))
    weights = np.ones((1, 2, 3, 7), np.float32)
    wanted = Weights(heads=[5, 2], queries=(8, 0, 4))
    response = respond(np.ones((1, 9, 4), np.float32), attn_weights=to_tensor(weights))
    result = parse(response, query, key=key, need_weights=wanted)
    assert result.heads == (5, 2)
    assert result.queries == (8, 0, 4)
    assert (result.q_seq_len, result.kv_seq_len) == (9, 7)
    assert not result.is_self_attention
    assert parse(response, query, key=query, need_weights=wanted).is_self_attention

    query = query[:, :3]
    response = respond(np.ones((1, 3, 4), np.float32), attn_weights=to_tensor(weights))
    everything = parse(response, query, key=key, need_weights=True)
    assert everything.heads == (0, 1)
    assert everything.queries == (0, 1, 2)

    wanted = Weights(average_heads=True, stage="scores")
    response.attn_weights.CopyFrom(to_tensor(weights[:, :1]))
    mean = parse(response, query, need_weights=wanted)
    assert mean.heads == ()
    assert mean.selection.stage == "scores"
    response.ClearField("attn_weights")
    assert parse(response, query).heads == parse(response, query).queries == ()


def test_top_keys_are_whole_numbers():
    top_keys = np.array([[[[3, 1]]]], np.int32)
    response = respond(attn_weights=to_tensor(OUTPUT[None]), top_keys=to_tensor(top_keys))
    result = parse(response, need_weights=Weights(top_k=2))
    assert result.top_keys.dtype == np.int32
    np.testing.assert_array_equal(result.top_keys, top_keys)
    assert "top_keys=<int32 (1, 1, 1, 2)>" in repr(result)


def test_output_may_be_left_out():
    response = pb.AttendResponse(attn_weights=to_tensor(OUTPUT[None]))
    result = parse(response, need_weights=True, need_output=False)
    assert result.output is None
    assert "output=None" in repr(result)


@pytest.mark.parametrize(
    ("response", "options", "message"),
    [
        (pb.AttendResponse(), {}, "lacks output, which"),
        (pb.AttendResponse(), {"need_weights": True}, "lacks attn_weights and output"),
        (
            respond(attn_weights=to_tensor(OUTPUT)),
            {"need_weights": Weights(top_k=1)},
            "lacks top_keys.* no older than this client",
        ),
        (pb.AttendRowsResponse(), {"need_weights": True, "need_output": False}, "lacks attn_w"),
    ],
)
def test_a_response_that_lacks_a_requested_tensor_is_a_server_error(response, options, message):
    with pytest.raises(ServerError, match=message):
        parse(response, **options)


def rows_response(first_row, num_rows, *, has_weights=True, axes=3):
    shape = (1, num_rows, 4) if axes == 3 else (1, 2, num_rows, 4)
    block = pb.AttendResponse(request_id="r", output=to_tensor(np.ones(shape, np.float32)))
    if has_weights:
        block.attn_weights.CopyFrom(to_tensor(np.ones((1, 2, num_rows, 9), np.float32)))
    block.execution.model = "m"
    return pb.AttendRowsResponse(first_row=first_row, block=block)


def test_rows_are_labelled_with_their_queries():
    query = np.ones((1, 9, 4))
    rows = parse(rows_response(3, 4), query, need_weights=True)
    assert rows.first_row == 3
    assert rows.queries == (3, 4, 5, 6)
    assert rows.execution.model == "m"
    assert rows.request_id == "r"
    assert "rows=4, output=<float32 (1, 4, 4)>" in repr(rows)
    chosen = parse(rows_response(1, 2), query, need_weights=Weights(queries=(8, 0, 4)))
    assert chosen.queries == (0, 4)
    assert parse(rows_response(0, 2, has_weights=False), query).queries == (0, 1)
    heads = parse(rows_response(0, 5, has_weights=False, axes=4), np.ones((1, 2, 9, 4)))
    assert heads.queries == (0, 1, 2, 3, 4)


def ones(*shape):
    return to_tensor(np.ones(shape, np.float32))


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"output": ones(2, 9)}, r"output of shape \(2, 9\): expected 3 axes, a batch size of 2"),
        ({"output": ones(1, 3, 4)}, "output of shape .* a batch size of 2 and 3 rows"),
        ({"output": ones(2, 4, 4)}, "output of shape"),
        ({"attn_weights": ones(2, 3, 5)}, "attn_weights of shape .* expected 4 axes"),
        ({"attn_weights": ones(1, 1, 2, 5)}, "attn_weights of shape"),
        ({"attn_weights": ones(2, 1, 3, 5)}, "attn_weights of shape .* 2 and 2 rows"),
        ({"top_keys": to_tensor(np.ones((2, 1, 1, 5), np.int32))}, "top_keys of shape"),
    ],
)
def test_other_sequences_or_rows_than_requested_are_a_server_error(tensors, message):
    query = np.ones((2, 3, 4))
    wanted = Weights(queries=(2, 0), top_k=5)
    good = {
        "output": ones(2, 3, 4),
        "attn_weights": ones(2, 1, 2, 5),
        "top_keys": to_tensor(np.ones((2, 1, 2, 5), np.int32)),
    }
    assert parse(pb.AttendResponse(**good), query, need_weights=wanted).queries == (2, 0)
    with pytest.raises(ServerError, match=message):
        parse(pb.AttendResponse(**(good | tensors)), query, need_weights=wanted)


@pytest.mark.parametrize(
    ("response", "message"),
    [
        (rows_response(1, 2), r"has rows 1 to 3 of 9: expected a block that begins with row 0"),
        (rows_response(0, 10), "has rows 0 to 10 of 9"),
        (
            pb.AttendRowsResponse(
                block=pb.AttendResponse(output=ones(1, 7, 4), attn_weights=ones(1, 2, 1, 9))
            ),
            "output of shape .* 1 rows",
        ),
    ],
)
def test_a_block_other_than_the_next_is_a_server_error(response, message):
    expected = prepare_call(np.ones((1, 9, 4)), model="m", need_weights=True).expected
    with pytest.raises(ServerError, match=message):
        parse_attend_rows_response(expected, response.SerializeToString(), 0)


@pytest.mark.parametrize("damage", ["output", "attn_weights"])
def test_a_response_whose_bytes_do_not_fit_its_shapes_is_a_server_error(damage):
    response = respond(attn_weights=to_tensor(OUTPUT))
    getattr(response, damage).data = b"short"
    with pytest.raises(ServerError, match=r"holds no array: shape .* got 5"):
        parse(response)


@pytest.mark.parametrize(
    "shape",
    [
        [0, 2**61],
        [2**61, 0, 4],
        [2**62, 4],
        [2**32, 2**32],
        [2**63 - 1] * 8,
        [-1, 4],
        [-2, -3, 4],
        [-(2**63)],
        [],
        [1] * 9,
        [1] * 65,
        [2**62] * 10_000,
    ],
    ids=lambda shape: str(shape[:3]) + f"x{len(shape)}",
)
@pytest.mark.parametrize("name", ["output", "attn_weights", "top_keys"])
def test_a_response_with_a_shape_that_no_array_has_is_a_server_error(name, shape):
    for data in (b"", bytes(4)):
        tensor = pb.Tensor(dtype=pb.DATA_TYPE_FLOAT, shape=shape, data=data)
        response = pb.AttendResponse(output=to_tensor(OUTPUT))
        getattr(response, name).CopyFrom(tensor)
        with pytest.raises(ServerError, match="holds no array: "):
            parse(response)
        block = pb.AttendRowsResponse(block=response).SerializeToString()
        expected = prepare_call(np.ones((1, 9, 4)), model="m", need_weights=True).expected
        with pytest.raises(ServerError, match="holds no array: "):
            parse_attend_rows_response(expected, block, 0)


def test_a_model_that_is_ready():
    spec = pb.AttentionSpec(embed_dim=6, num_heads=2, head_dim=3, is_causal=True, scale=0.5)
    model = pb.Model(
        name="m", version=2, state=pb.MODEL_STATE_READY, spec=spec, providers=["A", "B"],
        provenance=pb.Provenance(source="random", layer="0"),
    )  # fmt: skip
    info = parse_model(model)
    assert (info.name, info.version, info.is_ready) == ("m", 2, True)
    assert info.providers == ("A", "B")
    assert (info.spec.num_heads, info.spec.is_causal, info.spec.scale) == (2, True, 0.5)
    assert (info.provenance.source, info.provenance.layer) == ("random", "0")


def test_a_model_that_could_not_be_read():
    info = parse_model(
        pb.Model(name="m", version=1, state=pb.MODEL_STATE_UNAVAILABLE, state_reason="damaged")
    )
    assert not info.is_ready
    assert info.state_reason == "damaged"
    assert info.spec is None
    assert info.provenance is None


@pytest.mark.parametrize(("number", "outcome"), [(1, "loaded"), (3, "failed"), (42, "unspecified")])
def test_an_outcome_of_a_reload_may_be_one_that_only_a_newer_server_has(number, outcome):
    change = pb.ModelChange(name="m", version=1)
    change.MergeFromString(bytes([pb.ModelChange.OUTCOME_FIELD_NUMBER << 3, number]))
    assert parse_change(change).outcome == outcome


def test_a_server():
    info = parse_server_info(
        pb.GetServerInfoResponse(
            version="1", onnxruntime_version="2", providers=["A"],
            limits=pb.ServerLimits(max_request_bytes=5, max_queue_size=6),
        )
    )  # fmt: skip
    assert (info.version, info.onnxruntime_version, info.providers) == ("1", "2", ("A",))
    assert (info.limits.max_request_bytes, info.limits.max_queue_size) == (5, 6)


def test_a_rotary_embedding_is_described():
    rotary = pb.RotarySpec(
        dim=64,
        theta=10000,
        is_interleaved=True,
        scaling="yarn",
        factor=4,
        original_max_positions=4096,
        attention_factor=1.5,
        pair_frequencies=(1.0, 0.5),
    )
    spec = pb.AttentionSpec(num_kv_heads=2, precision="int8", rotary=rotary)
    info = parse_model(pb.Model(spec=spec))
    assert (info.spec.num_kv_heads, info.spec.precision) == (2, "int8")
    assert info.spec.rotary == types.RotarySpec(
        dim=64,
        theta=10000.0,
        is_interleaved=True,
        scaling="yarn",
        factor=4.0,
        original_max_positions=4096,
        attention_factor=1.5,
        pair_frequencies=(1.0, 0.5),
        long_pair_frequencies=(),
    )
    assert parse_model(pb.Model(spec=pb.AttentionSpec())).spec.rotary is None


@pytest.mark.parametrize("name", ["AttentionSpec", "Provenance", "RotarySpec", "ServerLimits"])
def test_messages_and_their_dataclasses_have_the_same_fields(name):
    message = {field.name for field in getattr(pb, name).DESCRIPTOR.fields}
    assert {field.name for field in fields(getattr(types, name))} == message


def test_large_arrays_are_views_of_the_response_and_small_ones_are_copies():
    large = np.ones((1, 64, 512), np.float32)
    small = np.ones((1, 1, 64, 64), np.float32)
    data = respond_with(large, small)
    expected = prepare_call(large, model="m", need_weights=True).expected
    result = parse_attend_response(expected, data)
    memory = np.frombuffer(data, np.uint8)
    assert np.shares_memory(result.output, memory)
    assert not np.shares_memory(result.attn_weights, memory)
    assert result.attn_weights.flags.aligned
    assert not result.output.flags.writeable
    assert not result.attn_weights.flags.writeable


def test_a_response_does_not_keep_a_message_of_which_it_is_the_smaller_part():
    large = np.ones((1, 64, 512), np.float32)
    response = respond_with(large, np.ones((1, 1, 64, 64), np.float32))
    expected = prepare_call(large, model="m", need_weights=True).expected
    for rest, shares_memory in ((2 * len(response), False), (10, True)):
        message = bytes(10) + response + bytes(rest)
        match = ATTEND.match(message, 10, 10 + len(response))
        [result] = parse_attend_responses([expected], match)
        np.testing.assert_array_equal(result.output, large)
        memory = np.frombuffer(message, np.uint8)
        assert np.shares_memory(result.output, memory) == shares_memory


def respond_with(output, weights):
    return pb.AttendResponse(
        output=to_tensor(output), attn_weights=to_tensor(weights)
    ).SerializeToString()


@pytest.mark.parametrize(
    "data", [b"\x12\x05\x08", b"\xff\xff", b"\x0a\x01\xff", b"\x22\x01\x0a", b"\x12\x02\x12\x05"]
)
def test_bytes_that_are_no_response_are_a_server_error(data):
    expected = prepare_call(OUTPUT, model="m").expected
    whole = data + respond().SerializeToString()
    with pytest.raises(ServerError, match="could not be read"):
        parse_attend_response(expected, whole)
    with pytest.raises(ServerError, match=r"could not be read|lacks output"):
        parse_attend_response(expected, data)
    with pytest.raises(ServerError, match="could not be read"):
        parse_attend_rows_response(expected, b"\x12\x03\x12\x05\x08", 0)
