"""Bad input is refused with a clean error that discloses nothing, and the next call is served."""

from __future__ import annotations

import math
import re

import grpc
import numpy as np
import pytest
from onnx import TensorProto, helper
from raw_calls import (
    GIVEN_AWAY,
    GOOD,
    SERVICE,
    WIDTH,
    assert_serves,
    call,
    channel_that_outlives,
    delimited,
    embeddings,
    open_channel,
    refused,
    request,
    tensor,
)

from polyhead.v1 import attention_pb2 as pb
from polyhead.wire.tensors import to_array, to_tensor
from polyhead_server.running import running_server


@pytest.fixture
def channel(server):
    with channel_that_outlives(server) as channel:
        yield channel


# ---------------------------------------------------------------- messages


@pytest.mark.parametrize("method", ["Attend", "GetModel"])
@pytest.mark.parametrize(
    "data",
    [
        b"\xff" * 50,
        b"\x0a\x05ab",  # a string cut short
        b"\x0a\x02\xff\xfe",  # a string that is not UTF-8
        b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x7f",  # a string of 2^63 bytes
        b"\x00\x01",  # field number 0
        b"\x0b" * 500,  # groups within groups
    ],
)
def test_malformed_message(channel, method, data):
    refusal = refused(channel, data, method)
    assert (refusal.code, refusal.reason) == ("INVALID_ARGUMENT", "MALFORMED")
    assert refusal.field == "request"


@pytest.mark.parametrize("size", [1, 2, 10, len(GOOD) // 2, len(GOOD) - 1])
def test_truncated_message(channel, size):
    refusal = refused(channel, GOOD[:size])
    assert refusal.code == "INVALID_ARGUMENT"


def test_a_message_of_another_type(channel):
    other = pb.AttendResponse(
        request_id="a", output=to_tensor(embeddings(2, 3)), execution=pb.Execution(model="plain")
    )
    assert refused(channel, other.SerializeToString()).code == "INVALID_ARGUMENT"


def test_an_empty_message(channel):
    refusal = refused(channel, b"")
    assert (refusal.code, refusal.reason) == ("INVALID_ARGUMENT", "REQUIRED")
    assert refusal.field == "query"


def test_unknown_fields_are_ignored(channel):
    from_a_newer_client = b"\xfa\x3e\x04abcd" + b"\xf8\x3e\x05"  # field 1007: bytes, a number
    assert call(channel, GOOD + from_a_newer_client)


# ---------------------------------------------------------------- tensors

BYTES = 2 * 3 * WIDTH * 4


@pytest.mark.parametrize("size", [0, BYTES - 4, BYTES - 1, BYTES + 1, BYTES + 4])
def test_bytes_that_do_not_fit_the_shape(channel, size):
    refusal = refused(
        channel, request(query=tensor([2, 3, WIDTH], bytes(size))).SerializeToString()
    )
    assert (refusal.code, refusal.reason) == ("INVALID_ARGUMENT", "BYTE_SIZE_MISMATCH")
    assert refusal.field == "query.data"
    assert f"takes {BYTES} bytes; got {size}" in refusal.message


@pytest.mark.parametrize("field", ["query", "key", "value", "attn_mask"])
@pytest.mark.parametrize(
    "shape",
    [
        [2**4, 2**60 + 2],  # 2^5 x sizeof, once 64 bits overflow
        [2**2, 2**60 + 2],
        [2**62, 4],  # 0, once 64 bits overflow
        [2**63 - 1] * 8,
        [1 << 40, 1 << 20, WIDTH],
    ],
)
def test_huge_shapes_with_few_bytes(channel, field, shape):
    message = request(key=to_tensor(embeddings(2, 3, WIDTH)))
    getattr(message, field).CopyFrom(tensor(shape, bytes(128)))
    refusal = refused(channel, message.SerializeToString())
    assert (refusal.code, refusal.reason) == ("INVALID_ARGUMENT", "BYTE_SIZE_MISMATCH")
    assert refusal.field == f"{field}.data"


@pytest.mark.parametrize(
    "shape",
    [
        [],
        [0],
        [0, 3, WIDTH],
        [2, 0, WIDTH],
        [2, 3, 0],
        [-1, 3, WIDTH],
        [-2, -3, WIDTH],
        [2, 3, -(2**63)],
        [1] * 9,
        [1] * 1000,
        [1] * 10_000,
    ],
    ids=lambda shape: str(shape[:9]) + f"x{len(shape)}",
)
@pytest.mark.parametrize("field", ["query", "attn_mask"])
def test_empty_and_invalid_shapes(channel, field, shape):
    size = 4 * abs(math.prod(shape)) if abs(math.prod(shape)) < 10_000 else 4
    refusal = refused(channel, request(**{field: tensor(shape, bytes(size))}).SerializeToString())
    assert (refusal.code, refusal.reason) == ("INVALID_ARGUMENT", "INVALID_SHAPE")
    assert refusal.field == f"{field}.shape"
    assert len(refusal.message) < 300


@pytest.mark.parametrize("dtype", [0, 2, 6, 7, 12, 99, -1, 2**31 - 1])
@pytest.mark.parametrize("field", ["query", "key", "attn_mask"])
def test_unknown_dtypes(channel, field, dtype):
    given = tensor([2, 3, WIDTH], bytes(BYTES), dtype)
    refusal = refused(channel, request(**{field: given}).SerializeToString())
    assert (refusal.code, refusal.reason) == ("INVALID_ARGUMENT", "UNSUPPORTED_DTYPE")
    assert refusal.field == f"{field}.dtype"


@pytest.mark.parametrize("dtype", [pb.DATA_TYPE_BOOL, pb.DATA_TYPE_INT32, 2, 99, -1])
def test_output_dtypes_that_hold_no_output(channel, dtype):
    refusal = refused(channel, request(output_dtype=dtype).SerializeToString())
    assert (refusal.code, refusal.reason) == ("INVALID_ARGUMENT", "UNSUPPORTED_DTYPE")
    assert refusal.field == "output_dtype"
    weights = pb.AttnWeightsSelection(dtype=dtype)
    refusal = refused(channel, request(attn_weights=weights).SerializeToString())
    assert (refusal.reason, refusal.field) == ("UNSUPPORTED_DTYPE", "attn_weights.dtype")


@pytest.mark.parametrize("field", ["query", "key", "value"])
def test_embeddings_of_bools(channel, field):
    given = {"key": to_tensor(embeddings(2, 3, WIDTH))} | {
        field: to_tensor(np.ones((2, 3, WIDTH), bool))
    }
    refusal = refused(channel, request(**given).SerializeToString())
    assert (refusal.reason, refusal.field) == ("UNSUPPORTED_DTYPE", f"{field}.dtype")


@pytest.mark.parametrize(
    ("field", "shape"),
    [
        ("query", (3, WIDTH)),
        ("query", (2, 3, WIDTH + 1)),
        ("query", (2, 1, 3, WIDTH)),
        ("key", (2, 3, WIDTH - 1)),
        ("key", (1, 3, WIDTH)),
        ("value", (2, 4, WIDTH)),
        ("value", (2, 3, 1)),
        ("attn_mask", (1, 1, 1, 1, 1)),
        ("attn_mask", (2,)),
        ("attn_mask", (4, 3)),
        ("attn_mask", (3, 1, 3, 3)),
        ("attn_mask", (2, 3, 3, 3)),
        ("attn_mask", (1,) * 8),
    ],
)
def test_shapes_that_do_not_fit(channel, field, shape):
    given = {"key": to_tensor(embeddings(2, 3, WIDTH)), field: to_tensor(embeddings(*shape))}
    refusal = refused(channel, request(**given).SerializeToString())
    assert (refusal.code, refusal.reason) == ("INVALID_ARGUMENT", "SHAPE_MISMATCH")
    assert refusal.field == f"{field}.shape"
    assert {"expected", "got"} <= refusal.figures.keys()
    assert refusal.figures["got"] == str(list(shape))


def test_value_without_key(channel):
    given = request(value=to_tensor(embeddings(2, 3, WIDTH)))
    refusal = refused(channel, given.SerializeToString())
    assert (refusal.reason, refusal.field) == ("REQUIRED", "value")


@pytest.mark.parametrize("missing", ["key", "value"])
def test_a_model_whose_widths_differ_needs_key_and_value(channel, missing):
    given = {"key": to_tensor(embeddings(2, 3, 10)), "value": to_tensor(embeddings(2, 3, 6))}
    if missing == "key":
        del given["value"]
    del given[missing]
    refusal = refused(channel, request(model="cross", **given).SerializeToString())
    assert (refusal.reason, refusal.field) == ("REQUIRED", missing)


@pytest.mark.parametrize(
    ("model", "field", "shape", "words"),
    [
        ("plain", "query", (2, 4, 3, 4), "only models without input projections"),
        ("sdpa", "query", (2, 3, 4, 4), "num_heads=4"),
        ("sdpa", "query", (2, 3, 17), "one by one"),
        (
            "sdpa",
            "key",
            (2, 3, 8),
            "num_kv_heads=2",
        ),  # side by side, unlike the query
        ("sdpa", "value", (2, 2, 3, 4), "v_head_dim=6"),
    ],
)
def test_heads_that_do_not_fit(channel, model, field, shape, words):
    given = {
        "query": to_tensor(embeddings(2, 4, 3, 4)),
        "key": to_tensor(embeddings(2, 2, 3, 4)),
        "value": to_tensor(embeddings(2, 2, 3, 6)),
    } | {field: to_tensor(embeddings(*shape))}
    refusal = refused(channel, request(model=model, **given).SerializeToString())
    assert (refusal.code, refusal.reason) == ("INVALID_ARGUMENT", "SHAPE_MISMATCH")
    assert refusal.field == f"{field}.shape"
    assert words in refusal.message


# ---------------------------------------------------------------- positions


@pytest.mark.parametrize("field", ["positions", "key_positions"])
@pytest.mark.parametrize(
    ("model", "positions", "reason", "at"),
    [
        ("plain", np.arange(3), "NOT_APPLICABLE", ""),
        ("sdpa", np.arange(3), "NOT_APPLICABLE", ""),
        ("rotary", np.arange(3.0), "UNSUPPORTED_DTYPE", ".dtype"),
        ("rotary", np.ones(3, bool), "UNSUPPORTED_DTYPE", ".dtype"),
        ("rotary", np.arange(2), "SHAPE_MISMATCH", ".shape"),
        ("rotary", np.zeros((1, 3), np.int64), "SHAPE_MISMATCH", ".shape"),
        ("rotary", np.array([0, 1, -1], np.int32), "OUT_OF_RANGE", ".data"),
        ("rotary", np.array([2**24, 1, 2]), "OUT_OF_RANGE", ".data"),
    ],
)
def test_positions_that_do_not_fit(channel, field, model, positions, reason, at):
    given = {field: to_tensor(positions)}
    if model == "sdpa":
        given |= {name: to_tensor(embeddings(2, 3, w)) for name, w in (("key", 8), ("value", 12))}
    refusal = refused(channel, request(model=model, **given).SerializeToString())
    assert (refusal.code, refusal.reason) == ("INVALID_ARGUMENT", reason)
    assert refusal.field == field + at


@pytest.mark.parametrize("field", ["positions", "key_positions"])
def test_positions_of_few_bytes(channel, field):
    given = {field: tensor([3], bytes(12), pb.DATA_TYPE_INT64)}
    refusal = refused(channel, request(model="rotary", **given).SerializeToString())
    assert (refusal.reason, refusal.field) == ("BYTE_SIZE_MISMATCH", f"{field}.data")


# ---------------------------------------------------------------- masks, lengths, selections


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("number", [np.nan, np.inf])
def test_masks_with_non_finite_numbers(channel, dtype, number):
    mask = np.zeros((3, 3), dtype)
    mask[1, 1] = number
    refusal = refused(channel, request(attn_mask=to_tensor(mask)).SerializeToString())
    assert (refusal.reason, refusal.field) == ("NON_FINITE", "attn_mask.data")


def test_a_mask_beyond_float32(channel):
    mask = np.zeros((3, 3))
    mask[0, 2] = 1e300
    refusal = refused(channel, request(attn_mask=to_tensor(mask)).SerializeToString())
    assert (refusal.reason, refusal.field) == ("NON_FINITE", "attn_mask.data")
    mask[0, 2] = -1e300  # forbids, as minus infinity does
    answer = call(channel, request(attn_mask=to_tensor(mask)).SerializeToString())
    assert np.isfinite(to_array(pb.AttendResponse.FromString(answer).output)).all()


def test_a_bool_of_2(channel):
    mask = tensor([3, 3], b"\x02" * 9, pb.DATA_TYPE_BOOL)
    refusal = refused(channel, request(attn_mask=mask).SerializeToString())
    assert (refusal.reason, refusal.field) == ("INVALID_VALUE", "attn_mask.data")


@pytest.mark.parametrize("shape", [(1,), (1, 1), (1, 1, 1), (1, 1, 1, 1)])
@pytest.mark.parametrize("allowed", [True, False])
def test_masks_of_one_element(channel, shape, allowed):
    message = request(
        attn_mask=to_tensor(np.full(shape, allowed)), attn_weights=pb.AttnWeightsSelection()
    )
    answer = pb.AttendResponse.FromString(call(channel, message.SerializeToString()))
    sums = to_array(answer.attn_weights).sum(axis=-1)
    np.testing.assert_allclose(sums, 1 if allowed else 0, atol=1e-6)
    assert np.isfinite(to_array(answer.output)).all()


@pytest.mark.parametrize(
    ("lengths", "reason", "field"),
    [
        ([3], "SHAPE_MISMATCH", "kv_lengths"),
        ([3, 3, 3], "SHAPE_MISMATCH", "kv_lengths"),
        ([3, 4], "OUT_OF_RANGE", "kv_lengths[1]"),
        ([-1, 3], "OUT_OF_RANGE", "kv_lengths[0]"),
        ([2**63 - 1, -(2**63)], "OUT_OF_RANGE", "kv_lengths[0]"),
        ([1] * 10_000, "SHAPE_MISMATCH", "kv_lengths"),
    ],
)
def test_lengths_that_do_not_fit(channel, lengths, reason, field):
    refusal = refused(channel, request(kv_lengths=lengths).SerializeToString())
    assert (refusal.code, refusal.reason, refusal.field) == ("INVALID_ARGUMENT", reason, field)


@pytest.mark.parametrize(
    ("axis", "indices", "reason", "field"),
    [
        ("heads", [4], "OUT_OF_RANGE", "attn_weights.heads[0]"),
        ("heads", [0, -1], "OUT_OF_RANGE", "attn_weights.heads[1]"),
        ("heads", [1, 2, 1], "DUPLICATE", "attn_weights.heads"),
        ("heads", [0] * 5, "TOO_MANY", "attn_weights.heads"),
        ("heads", [0] * 10_000, "TOO_MANY", "attn_weights.heads"),
        ("queries", [3], "OUT_OF_RANGE", "attn_weights.queries[0]"),
        ("queries", [-(2**31)], "OUT_OF_RANGE", "attn_weights.queries[0]"),
        ("queries", [2, 2], "DUPLICATE", "attn_weights.queries"),
        ("queries", [0, 1, 2, 0], "TOO_MANY", "attn_weights.queries"),
    ],
)
def test_selections_that_do_not_fit(channel, axis, indices, reason, field):
    selection = pb.AttnWeightsSelection(**{axis: indices})
    refusal = refused(channel, request(attn_weights=selection).SerializeToString())
    assert (refusal.code, refusal.reason, refusal.field) == ("INVALID_ARGUMENT", reason, field)


@pytest.mark.parametrize(
    ("selection", "reason", "field"),
    [
        ({"top_k": -1}, "OUT_OF_RANGE", "attn_weights.top_k"),
        ({"top_k": -(2**31)}, "OUT_OF_RANGE", "attn_weights.top_k"),
        ({"stage": 4}, "INVALID_VALUE", "attn_weights.stage"),
        ({"stage": -1}, "INVALID_VALUE", "attn_weights.stage"),
    ],
)
def test_invalid_stages_and_top_k(channel, selection, reason, field):
    wanted = pb.AttnWeightsSelection(**selection)
    refusal = refused(channel, request(attn_weights=wanted).SerializeToString())
    assert (refusal.code, refusal.reason, refusal.field) == ("INVALID_ARGUMENT", reason, field)


def test_neither_output_nor_weights(channel):
    refusal = refused(channel, request(omit_output=True).SerializeToString())
    assert (refusal.code, refusal.reason) == ("INVALID_ARGUMENT", "REQUIRED")
    assert refusal.field == "omit_output"


@pytest.mark.parametrize(
    ("append", "field"),
    [
        (lambda packed: delimited(8, packed), "kv_lengths"),
        (lambda packed: delimited(9, delimited(1, packed)), "attn_weights.heads"),
        (lambda packed: delimited(9, delimited(2, packed)), "attn_weights.queries"),
    ],
)
def test_millions_of_entries(channel, append, field):
    refusal = refused(channel, GOOD + append(bytes(3_000_000)))
    assert (refusal.code, refusal.reason) == ("INVALID_ARGUMENT", "TOO_MANY")
    assert refusal.field == field


# ---------------------------------------------------------------- numbers


@pytest.mark.parametrize("field", ["query", "key", "value"])
@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_embeddings_with_non_finite_numbers(channel, field, number, dtype):
    array = embeddings(2, 3, WIDTH).astype(dtype)
    array[1, 2, 5] = number
    given = {"key": to_tensor(embeddings(2, 3, WIDTH)), field: to_tensor(array)}
    refusal = refused(channel, request(**given).SerializeToString())
    assert (refusal.code, refusal.reason) == ("INVALID_ARGUMENT", "NON_FINITE")
    assert refusal.field == f"{field}.data"


def test_infinities_that_cancel_are_found(channel):
    array = embeddings(2, 3, WIDTH)
    array[0, 0, 0], array[0, 0, 1] = np.inf, -np.inf
    refusal = refused(channel, request(query=to_tensor(array)).SerializeToString())
    assert refusal.reason == "NON_FINITE"


def test_large_finite_numbers_are_accepted(channel):
    array = np.full((2, 3, WIDTH), 3e38, np.float32)  # whose sum is infinite
    assert call(channel, request(key=to_tensor(array)).SerializeToString())


def test_float64_beyond_float32(channel):
    array = embeddings(2, 3, WIDTH).astype(np.float64)
    array[0, 0, 0] = 1e39
    refusal = refused(channel, request(query=to_tensor(array)).SerializeToString())
    assert (refusal.reason, refusal.field) == ("NON_FINITE", "query.data")
    assert "beyond float32" in refusal.message


def test_an_output_beyond_float16_is_infinite(channel):
    """The caller chose the type: numbers beyond its range become infinities, as in NumPy."""
    query = to_tensor(embeddings(2, 3, WIDTH) * np.float32(1e6))
    message = request(query=query, output_dtype=pb.DATA_TYPE_FLOAT16)
    answer = pb.AttendResponse.FromString(call(channel, message.SerializeToString()))
    output = to_array(answer.output)
    assert output.dtype == np.float16
    assert np.isinf(output).any()
    assert not np.isnan(output).any()


def test_non_finite_numbers_can_be_allowed_and_stay_in_their_sequence(repository):
    with (
        running_server(repository, threads=1, allow_non_finite=True) as lenient,
        channel_that_outlives(lenient) as channel,
    ):
        for need_weights in (True, False):
            clean, spoiled = embeddings(3, 5, WIDTH), embeddings(3, 5, WIDTH)
            spoiled[1, 2] = [np.nan, np.inf] * (WIDTH // 2)
            outputs = []
            for array in (clean, spoiled):
                message = request(query=to_tensor(array))
                if need_weights:
                    message.attn_weights.SetInParent()
                answer = call(channel, message.SerializeToString())
                outputs.append(to_array(pb.AttendResponse.FromString(answer).output))
            np.testing.assert_array_equal(outputs[0][[0, 2]], outputs[1][[0, 2]])
            assert np.isnan(outputs[1][1]).any()


# ---------------------------------------------------------------- names and ids

BAD_NAMES = [" ", "../x", "%2e%2e/x", "a\0b", "x" * 4096, "plain\n", "plain/1", "é", "."]
BAD_NAMES += ["\x1b[2J", "\U000e0001" * 1024, "🐟" * 1024, "'" * 4096]


@pytest.mark.parametrize("name", BAD_NAMES, ids=lambda name: ascii(name)[:20])
def test_names_no_model_can_have(channel, name):
    refusal = refused(channel, request(model=name).SerializeToString())
    assert (refusal.code, refusal.reason) == ("INVALID_ARGUMENT", "INVALID_NAME")
    assert refusal.field == "model"
    refusal = refused(channel, pb.GetModelRequest(name=name).SerializeToString(), "GetModel")
    assert (refusal.reason, refusal.field) == ("INVALID_NAME", "name")


def test_no_name_at_all(channel):
    refusal = refused(channel, request(model="").SerializeToString())
    assert (refusal.code, refusal.reason) == ("INVALID_ARGUMENT", "REQUIRED")
    assert refusal.field == "model"
    refusal = refused(channel, b"", "GetModel")
    assert (refusal.reason, refusal.field) == ("REQUIRED", "name")


@pytest.mark.parametrize("method", ["Attend", "GetModel"])
def test_a_model_that_is_not_there(channel, method):
    message = request(model="missing") if method == "Attend" else pb.GetModelRequest(name="missing")
    refusal = refused(channel, message.SerializeToString(), method)
    assert (refusal.code, refusal.reason) == ("NOT_FOUND", "MODEL_NOT_FOUND")
    assert "this server has " in refusal.message


@pytest.mark.parametrize("version", [2, -1, 2**63 - 1, -(2**63)])
def test_a_version_that_is_not_there(channel, version):
    refusal = refused(channel, request(model_version=version).SerializeToString())
    assert (refusal.code, refusal.reason) == ("NOT_FOUND", "MODEL_VERSION_NOT_FOUND")


@pytest.mark.parametrize("request_id", ["x" * 256, "é" * 128, "\r\n\0\x1b[2J\u2028\U0010ffff"])
def test_any_text_is_a_request_id(channel, request_id):
    answer = call(channel, request(request_id=request_id).SerializeToString())
    assert pb.AttendResponse.FromString(answer).request_id == request_id


@pytest.mark.parametrize("request_id", ["x" * 257, "é" * 128 + "x", "x" * (1 << 20)])
def test_a_request_id_that_is_too_long(channel, request_id):
    refusal = refused(channel, request(request_id=request_id).SerializeToString())
    assert (refusal.code, refusal.field) == ("INVALID_ARGUMENT", "request_id")
    assert len(refusal.message) < 200


def test_a_request_id_with_lone_surrogates_is_malformed(channel):
    refusal = refused(channel, GOOD + delimited(3, "\ud800".encode("utf-8", "surrogatepass")))
    assert refusal.reason == "MALFORMED"


PATHS = ["", "/", "//", "/x", "/polyhead.v1.AttentionService", SERVICE, SERVICE + "attend"]
PATHS += [SERVICE + "Attend/", SERVICE + "../Attend", SERVICE + "Attend?x", "/x" + SERVICE]
PATHS += ["/polyhead.v2.AttentionService/Attend", SERVICE + "Attend%00", SERVICE + "x" * 4000]


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path[:40] or "empty")
def test_unknown_methods(channel, path):
    with pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary(path)(GOOD, timeout=30)
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
    assert not GIVEN_AWAY.search(caught.value.details())


@pytest.mark.parametrize("size", [17_000, 20_000])
def test_metadata_over_the_limit_is_always_refused(channel, size):
    """Between two limits of its own, gRPC refuses some at random."""
    for _ in range(10):
        refusal = refused(channel, GOOD, metadata=[("x", "y" * size)])
        assert refusal.code == "RESOURCE_EXHAUSTED"


# ---------------------------------------------------------------- sizes


@pytest.fixture(scope="module")
def small_server(repository):
    """A server with low limits."""
    limits = {"max_request_bytes": 1 << 20, "max_response_bytes": 1 << 16}
    with running_server(repository, threads=1, max_scores_bytes=1 << 16, **limits) as server:
        yield server


@pytest.fixture
def small_channel(small_server):
    with channel_that_outlives(small_server) as channel:
        yield channel


@pytest.mark.parametrize("megabytes", [1.5, 3, 64])  # below and above what gRPC itself lets in
def test_messages_over_the_limit(small_channel, megabytes):
    large = GOOD + delimited(5, bytes(int(megabytes * (1 << 20))))
    refusal = refused(small_channel, large)
    assert refusal.code == "RESOURCE_EXHAUSTED"
    if megabytes < 2:
        assert (refusal.reason, refusal.limit) == ("REQUEST_TOO_LARGE", "max_request_bytes")
        assert "--max-request-bytes" in refusal.message


def test_weights_too_large_are_refused_with_a_suggestion(small_channel):
    query = to_tensor(embeddings(1, 128, WIDTH))  # 4 x 128 x 128 x 4 = 256 KiB of weights
    message = request(query=query, attn_weights=pb.AttnWeightsSelection())
    refusal = refused(small_channel, message.SerializeToString())
    assert (refusal.code, refusal.limit) == ("RESOURCE_EXHAUSTED", "max_response_bytes")
    assert refusal.reason == "OUTPUT_TOO_LARGE"
    # 64 KiB - 1 KiB - 8 KiB of output, by 4 x 128 x 4 and by 4 x 128 x (4 + 4)
    assert "at most 27 queries" in refusal.message
    assert "top_k of at most 13" in refusal.message
    assert "AttendRows" in refusal.message
    for fits in ({"queries": range(27)}, {"top_k": 13}):
        message.attn_weights.CopyFrom(pb.AttnWeightsSelection(**fits))
        assert call(small_channel, message.SerializeToString())


def test_a_response_too_large_is_refused_before_it_is_computed(small_channel):
    query = to_tensor(embeddings(1, 2000, WIDTH).astype(np.float16))
    message = request(query=query, output_dtype=pb.DATA_TYPE_DOUBLE)
    refusal = refused(small_channel, message.SerializeToString())
    assert (refusal.code, refusal.limit) == ("RESOURCE_EXHAUSTED", "max_response_bytes")
    assert refusal.reason == "OUTPUT_TOO_LARGE"


def test_a_single_row_of_scores_must_fit(small_channel):
    """64 KiB hold the scores of 4 heads against 4096 keys."""
    query, keys = embeddings(1, 1, WIDTH), embeddings(1, 4097, WIDTH)
    message = request(query=to_tensor(query), key=to_tensor(keys.astype(np.float16)))
    assert call(small_channel, message.SerializeToString())  # fused: no scores are held
    message.attn_weights.top_k = 1
    refusal = refused(small_channel, message.SerializeToString())
    assert (refusal.reason, refusal.limit) == ("SCORES_TOO_LARGE", "max_scores_bytes")
    assert "at most 4096 keys" in refusal.message
    assert "--max-scores-bytes" in refusal.message
    message.kv_lengths[:] = [4096]  # padding does not count
    assert call(small_channel, message.SerializeToString())


def test_a_matrix_of_scores_over_the_limit_is_computed_in_parts(small_channel):
    query = to_tensor(embeddings(2, 300, WIDTH))
    message = request(query=query, attn_weights=pb.AttnWeightsSelection(queries=[299], heads=[2]))
    answer = pb.AttendResponse.FromString(call(small_channel, message.SerializeToString()))
    assert to_array(answer.attn_weights).shape == (2, 1, 1, 300)


# ---------------------------------------------------------------- models that could not be loaded


def with_an_unknown_operator():
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Frobnicate", ["x"], ["y"])], "g", [x], [y])
    opset = helper.make_opsetid("", 17)
    return helper.make_model(graph, ir_version=10, opset_imports=[opset]).SerializeToString()


def test_a_corrupt_model_is_refused_and_the_others_serve(tmp_path, repository):
    for name, content in (
        ("plain", (repository / "plain" / "1" / "model.onnx").read_bytes()),
        ("corrupt", b"no model"),
        ("unsupported", with_an_unknown_operator()),
    ):
        (tmp_path / name / "1").mkdir(parents=True)
        (tmp_path / name / "1" / "model.onnx").write_bytes(content)
    with running_server(tmp_path, threads=1) as server, open_channel(server) as channel:
        refusal = refused(channel, request(model="corrupt").SerializeToString())
        assert (refusal.code, refusal.reason) == ("FAILED_PRECONDITION", "MODEL_INVALID")
        refusal = refused(channel, request(model="unsupported").SerializeToString())
        assert (refusal.code, refusal.reason) == ("FAILED_PRECONDITION", "MODEL_INVALID")
        assert "it uses the operator Frobnicate of opset 17" in refusal.message
        answer = pb.ListModelsResponse.FromString(call(channel, b"", "ListModels"))
        states = {model.name: model.state for model in answer.models}
        assert states == {
            "corrupt": pb.MODEL_STATE_UNAVAILABLE,
            "plain": pb.MODEL_STATE_READY,
            "unsupported": pb.MODEL_STATE_UNAVAILABLE,
        }
        assert_serves(channel)


# ---------------------------------------------------------------- our own faults

RUNS = [
    "polyhead_server.engine.model.Model.run_graph",
    "polyhead_server.engine.model.BoundRun.__call__",
]


@pytest.mark.parametrize("fault", [RuntimeError, KeyError, OSError, AssertionError])
def test_a_bug_gives_nothing_away_but_an_id_that_is_in_the_log(channel, monkeypatch, caplog, fault):
    unseen = type("Unseen", (fault,), {})  # whose traceback has not been logged just now

    def fail(*_, **__):
        raise unseen("/secret/path")

    with monkeypatch.context() as patched:
        for run in RUNS:
            patched.setattr(run, fail)
        refusal = refused(channel, GOOD)
    assert (refusal.code, refusal.reason) == ("INTERNAL", "INTERNAL")
    assert "secret" not in refusal.message
    incident = re.fullmatch(r"internal error, incident ([0-9a-f]{12})", refusal.message)[1]
    (record,) = (r for r in caplog.records if r.exc_info)
    assert record.incident == incident
    assert "/secret/path" in caplog.text


PLACES_OF_BUGS = [
    "polyhead_server.services.attention.prepare.read_call",
    "polyhead.wire.tensors.TensorLayout.read",
    "polyhead_server.codec.request.write_response",
    "polyhead_server.planning.prepared_call.plan_call",
    "polyhead_server.planning.plan.convert_embeddings",
    "polyhead_server.services.attention.service.describe_model",
    "polyhead_server.services.attention.service.describe_server",
]


@pytest.mark.parametrize("where", PLACES_OF_BUGS)
def test_a_bug_anywhere_gives_nothing_away(channel, monkeypatch, where):
    def fail(*_, **__):
        raise RuntimeError("/secret/path")

    asked = {"describe_model": "ListModels", "describe_server": "GetServerInfo"}
    method = asked.get(where.rpartition(".")[2], "Attend")
    of_a_new_template = request(
        query=to_tensor(embeddings(1, 100 + PLACES_OF_BUGS.index(where), WIDTH))
    )
    with monkeypatch.context() as patched:
        patched.setattr(where, fail)
        data = of_a_new_template.SerializeToString() if method == "Attend" else b""
        refusal = refused(channel, data, method)
    assert refusal.code == "INTERNAL"
    assert refusal.message.startswith("internal error, incident ")


def test_out_of_memory_is_reported_as_a_request_that_is_too_large(channel, monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("BFCArena: Failed to allocate memory for requested buffer of size 1")

    with monkeypatch.context() as patched:
        for run in RUNS:
            patched.setattr(run, fail)
        refusal = refused(channel, GOOD)
    assert (refusal.code, refusal.reason) == ("RESOURCE_EXHAUSTED", "OUT_OF_MEMORY")
    assert "Arena" not in refusal.message
