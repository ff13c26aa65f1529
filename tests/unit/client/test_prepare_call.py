"""Invalid arguments are refused by name; valid ones are sent unchanged."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from polyhead import InvalidArgumentError, Weights
from polyhead._calls.request import prepare_call, prepare_rows_call
from polyhead._client.descriptions import build_get_model_request
from polyhead.v1 import attention_pb2 as pb
from polyhead.v1.forward_pb2 import LayerRef
from polyhead.wire.tensors import to_array

QUERY = np.zeros((2, 3, 4), np.float32)
KEY = np.zeros((2, 5, 7), np.float16)
VALUE = np.zeros((2, 5, 6), np.float64)


def build(query=QUERY, **arguments):
    call = prepare_call(query, **{"model": "m", **arguments})
    assert len(call.message()) == call.size
    return pb.AttendRequest.FromString(call.message())


def test_query_and_model_are_enough():
    assert build() == pb.AttendRequest(
        model="m", query=pb.Tensor(dtype=1, shape=[2, 3, 4], data=bytes(96))
    )


def test_every_argument_is_sent_in_its_field():
    mask = np.tri(3, 5, dtype=bool)
    request = build(
        key=KEY,
        value=VALUE,
        attn_mask=mask,
        version=7,
        kv_lengths=[5, 0],
        need_weights=Weights(heads=[1, 0], queries=np.array([2])),
        output_dtype="bfloat16",
        request_id="härad",
    )
    assert request.model_version == 7
    assert request.request_id == "härad"
    assert list(request.kv_lengths) == [5, 0]
    assert list(request.attn_weights.heads) == [1, 0]
    assert list(request.attn_weights.queries) == [2]
    assert request.output_dtype == pb.DATA_TYPE_BFLOAT16
    for name, array in {"query": QUERY, "key": KEY, "value": VALUE, "attn_mask": mask}.items():
        sent = to_array(getattr(request, name))
        assert sent.dtype == array.dtype
        np.testing.assert_array_equal(sent, array)


def test_a_layer_of_a_whole_model_is_sent():
    assert not build().HasField("layer")
    for layer, stack, kind in ((3, "", ""), (("encoder", 3), "encoder", "")):
        assert build(layer=layer).layer == LayerRef(stack=stack, layer=3, kind=kind)
    assert build(layer=("cross", 3)).layer == LayerRef(stack="decoder", layer=3, kind="cross")
    assert build(layer=np.int64(0)).HasField("layer")


def test_asking_for_all_weights_is_an_empty_selection():
    assert build(need_weights=True).HasField("attn_weights")
    assert build(need_weights=np.True_).HasField("attn_weights")
    assert build(need_weights=Weights()).HasField("attn_weights")
    assert not build(need_weights=False).HasField("attn_weights")


def test_every_selection_is_sent_in_its_field():
    wanted = Weights(
        heads=3, queries=range(2), top_k=np.int64(4), average_heads=True, stage="masked",
        dtype=np.float16,
    )  # fmt: skip
    assert build(need_weights=wanted).attn_weights == pb.AttnWeightsSelection(
        heads=[3], queries=[0, 1], top_k=4, average_heads=True,
        stage=pb.ATTN_WEIGHTS_STAGE_MASKED, dtype=pb.DATA_TYPE_FLOAT16,
    )  # fmt: skip


def test_output_can_be_left_out():
    assert build(need_weights=True, need_output=False).omit_output
    assert not build(need_weights=True).omit_output


def test_positions_are_sent_for_all_sequences_or_for_each():
    request = build(positions=[5, 6, 7], key_positions=np.arange(6, dtype=np.uint8).reshape(2, 3))
    np.testing.assert_array_equal(to_array(request.positions), [5, 6, 7])
    np.testing.assert_array_equal(to_array(request.key_positions), [[0, 1, 2], [3, 4, 5]])
    assert request.positions.dtype == pb.DATA_TYPE_INT32


def test_heads_are_sent_as_they_are():
    query, key, value = np.ones((2, 4, 3, 8)), np.ones((2, 2, 5, 8)), np.ones((2, 2, 5, 6))
    request = build(
        query, key=key, value=value, attn_mask=np.ones((2, 4, 3, 5), bool), kv_lengths=[5, 0],
        positions=[0, 1, 2], need_weights=Weights(queries=2),
    )  # fmt: skip
    for name, array in {"query": query, "key": key, "value": value}.items():
        assert list(getattr(request, name).shape) == list(array.shape)


def test_an_attend_rows_request_holds_the_call():
    call = prepare_call(QUERY, model="m", need_weights=True)
    request = pb.AttendRequest.FromString(call.message())
    for rows, expected in ((None, 0), (7, 7)):
        rows_call = prepare_rows_call(call, rows)
        assert len(rows_call.message()) == rows_call.size
        assert pb.AttendRowsRequest.FromString(rows_call.message()) == pb.AttendRowsRequest(
            call=request, rows_per_block=expected
        )
    for rows in (0, -1, True, "7"):
        with pytest.raises(InvalidArgumentError, match="rows_per_block: expected a whole number"):
            prepare_rows_call(call, rows)


def test_lists_are_arrays_too():
    request = build([[[1.0, 2.0]]], attn_mask=[[True]])
    np.testing.assert_array_equal(to_array(request.query), [[[1.0, 2.0]]])
    assert request.attn_mask.dtype == pb.DATA_TYPE_BOOL


def test_bfloat16_is_sent_unchanged():
    request = build(QUERY.astype(ml_dtypes.bfloat16))
    assert request.query.dtype == pb.DATA_TYPE_BFLOAT16


@pytest.mark.parametrize(
    "shape",
    [(), (5,), (1,), (3, 5), (1, 5), (3, 1), (8, 3, 5), (1, 3, 5), (2, 8, 3, 5), (1, 1, 1, 1)],
)
def test_masks_that_broadcast_are_accepted(shape):
    if shape:
        assert list(build(key=KEY, attn_mask=np.ones(shape, bool)).attn_mask.shape) == list(shape)
    else:
        with pytest.raises(InvalidArgumentError, match="1 to 4 axes"):
            build(key=KEY, attn_mask=np.ones(shape, bool))


REFUSED = {
    "no batch axis": (
        {"query": QUERY[0]},
        "query.shape",
        r"^query: .* \(batch_size, q_seq_len, embed_dim\); got shape \(3, 4\): .* query\[None\]$",
    ),
    "too many axes": ({"query": QUERY[None, None]}, "query.shape", r"got shape \(1, 1, 2, 3, 4\)"),
    "no heads": ({"query": QUERY[:, :0, None]}, "query.shape", "or heads .* without input proj"),
    "key without heads": (
        {"query": QUERY[:, None], "key": KEY},
        "key.shape",
        r"as many axes as query has, 4; got shape \(2, 5, 7\)",
    ),
    "value with heads": (
        {"key": KEY, "value": QUERY[:, None]},
        "value.shape",
        "as query has, 3",
    ),
    "no tokens": ({"query": QUERY[:, :0]}, "query.shape", r"none empty; got shape \(2, 0, 4\)"),
    "no number": ({"query": 3.0}, "query.shape", r"got shape \(\)"),
    "integers": ({"query": QUERY.astype(int)}, "query.dtype", r"got int64: .*astype\('float32'\)"),
    "booleans": ({"query": QUERY.astype(bool)}, "query.dtype", "got bool"),
    "ragged": ({"query": [[[1.0], [1.0, 2.0]]]}, "query", "NumPy says"),
    "key without batch": ({"key": KEY[0]}, "key.shape", r"key\[None\]"),
    "key of other batch": ({"key": KEY[:1]}, "key.shape", r"batch_size of query, 2; got shape \(1"),
    "value of other batch": (
        {"key": KEY, "value": VALUE[:1]},
        "value.shape",
        "batch_size of query",
    ),
    "value of other length": (
        {"key": KEY, "value": QUERY},
        "value.shape",
        "kv_seq_len of key, 5; got",
    ),
    "value without key": ({"value": QUERY}, "value", "value: .* expected key as well"),
    "mask of integers": ({"attn_mask": [[1, 0, 1]]}, "attn_mask.dtype", "True where a query may"),
    "mask transposed": (
        {"key": KEY, "attn_mask": np.ones((5, 3), bool)},
        "attn_mask.shape",
        r"= \(2, num_heads, 3, 5\), of which .*; got shape \(5, 3\)",
    ),
    "mask of other batch": ({"attn_mask": np.ones((3, 1, 3, 3), bool)}, "attn_mask.shape", "3, 1"),
    "mask of no head": ({"attn_mask": np.ones((0, 3, 3), bool)}, "attn_mask.shape", r"\(0, 3, 3\)"),
    "mask of 5 axes": ({"attn_mask": np.ones((1,) * 5, bool)}, "attn_mask.shape", "1 to 4 axes"),
    "lengths missing": ({"kv_lengths": [3]}, "kv_lengths", r"expected 2 integers.*shape \(1,\)"),
    "length for all": ({"kv_lengths": 3}, "kv_lengths", r"shape \(\)"),
    "lengths of float": ({"kv_lengths": [3.0, 1.0]}, "kv_lengths", "got float64"),
    "lengths of bool": ({"kv_lengths": [True, False]}, "kv_lengths", "got bool"),
    "lengths ragged": ({"kv_lengths": [[1], 2]}, "kv_lengths", "NumPy says"),
    "length negative": ({"kv_lengths": [3, -1]}, "kv_lengths[1]", "got -1 for sequence 1"),
    "length too long": (
        {"kv_lengths": [4, 1]},
        "kv_lengths[0]",
        "kv_seq_len = 3; got 4 for sequence 0",
    ),
    "weights of a word": ({"need_weights": "yes"}, "attn_weights", "got 'yes'"),
    "weights of 1": ({"need_weights": 1}, "attn_weights", "got 1"),
    "head negative": (
        {"need_weights": Weights(heads=(0, -1))},
        "attn_weights.heads[1]",
        r"need_weights\.heads: expected indices from 0 to below num_heads; got -1",
    ),
    "head too large": ({"need_weights": Weights(heads=2**31)}, "attn_weights.heads[0]", "2147"),
    "head twice": ({"need_weights": Weights(heads=(1, 1))}, "attn_weights.heads", "once"),
    "head of float": (
        {"need_weights": Weights(heads=(1.5,))},
        "attn_weights.heads",
        "integers",
    ),
    "head of text": ({"need_weights": Weights(heads="1")}, "attn_weights.heads", "sequence of int"),
    "head None": ({"need_weights": Weights(heads=None)}, "attn_weights.heads", "got None"),
    "heads as mask": (
        {"need_weights": Weights(heads=[True, False])},
        "attn_weights.heads",
        "an integer or a sequence of integers",
    ),
    "query of a word": (
        {"need_weights": Weights(queries=[1, "bank"])},
        "attn_weights.queries",
        r"got \[1, 'bank'\]: words select rows in forward only, which takes texts",
    ),
    "layer negative": ({"layer": -1}, "layer", "layers are counted from 0; got -1"),
    "layer of text": ({"layer": "3"}, "layer", "expected a layer's number from 0, or a pair"),
    "layer of a list": ({"layer": ["cross", 3]}, "layer", "or a pair such as"),
    "layer True": ({"layer": ("encoder", True)}, "layer", "got"),
    "query negative": (
        {"need_weights": Weights(queries=-1)},
        "attn_weights.queries[0]",
        "below q_seq_len = 3; got -1",
    ),
    "top 0": (
        {"need_weights": Weights(top_k=0)},
        "attn_weights.top_k",
        r"need_weights\.top_k: expected a whole number from 1 .*None for all keys; got 0",
    ),
    "top True": ({"need_weights": Weights(top_k=True)}, "attn_weights.top_k", "got True"),
    "top of float": ({"need_weights": Weights(top_k=2.0)}, "attn_weights.top_k", "got 2.0"),
    "top too many": (
        {"need_weights": Weights(top_k=2**31)},
        "attn_weights.top_k",
        "got 2147483648",
    ),
    "mean of a word": (
        {"need_weights": Weights(average_heads="no")},
        "attn_weights.average_heads",
        "expected True or False; got 'no'",
    ),
    "stage unknown": (
        {"need_weights": Weights(stage="softmax")},
        "attn_weights.stage",
        "expected one of 'weights', 'scores', 'masked'; got 'softmax'",
    ),
    "stage no text": ({"need_weights": Weights(stage=[])}, "attn_weights.stage", r"got \[\]"),
    "weights of int": (
        {"need_weights": Weights(dtype="int32")},
        "attn_weights.dtype",
        r"need_weights\.dtype: expected one of float32, .*float64; got int32",
    ),
    "neither output nor weights": (
        {"need_output": False},
        "omit_output",
        "need_output: .*expected need_weights",
    ),
    "output of 0": ({"need_output": 0}, "omit_output", "expected True or False; got 0"),
    "positions of float": (
        {"positions": [0.0, 1, 2]},
        "positions.dtype",
        "expected integers; got float64",
    ),
    "positions of bool": ({"positions": [True] * 3}, "positions.dtype", "integers; got bool"),
    "positions ragged": ({"positions": [[1], 2]}, "positions", "expected integers; NumPy says"),
    "positions too few": (
        {"positions": [0, 1]},
        "positions.shape",
        r"expected \(3,\), the same for all sequences, or \(2, 3\); got shape \(2,\)",
    ),
    "positions of one of two": ({"positions": [[0, 1, 2]]}, "positions.shape", r"shape \(1, 3\)"),
    "position negative": (
        {"positions": [0, -4, 2]},
        "positions.data",
        "from 0 to below 16777216; got -4",
    ),
    "position beyond": ({"positions": [0, 2**24, 2]}, "positions.data", "got 16777216"),
    "key positions as queries": (
        {"key": KEY, "key_positions": [0, 1, 2]},
        "key_positions.shape",
        r"expected \(5,\)",
    ),
    "query beyond": (
        {"need_weights": Weights(queries=(2, 3))},
        "attn_weights.queries[1]",
        "below q_seq_len = 3; got 3",
    ),
    "more queries than there are": (
        {"need_weights": Weights(queries=(0, 1, 2, 0))},
        "attn_weights.queries",
        "at most q_seq_len = 3 indices; got 4",
    ),
    "output of bool": ({"output_dtype": bool}, "output_dtype", "float64; got bool"),
    "output of int": (
        {"output_dtype": "int8"},
        "output_dtype",
        "^output_dtype: expected one of float32, float16, bfloat16, float64; got int8$",
    ),
    "output of positions' dtype": ({"output_dtype": "int32"}, "output_dtype", "got int32"),
    "no model": ({"model": ""}, "model", "not empty"),
    "model no text": ({"model": 3}, "model", "expected a str"),
    "model of surrogates": ({"model": "\udcff"}, "model", "lone surrogates"),
    "version 0": ({"version": 0}, "model_version", "version: expected a whole number from 1"),
    "version True": ({"version": True}, "model_version", "or None for the newest; got True"),
    "version of text": ({"version": "1"}, "model_version", "got '1'"),
    "version beyond int64": ({"version": 2**63}, "model_version", "got 9223"),
    "id too long": ({"request_id": "é" * 129}, "request_id", "at most 256 bytes of UTF-8; got 258"),
    "id no text": ({"request_id": 7}, "request_id", "expected a str"),
}


@pytest.mark.parametrize(("arguments", "field", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_invalid_arguments_are_refused(arguments, field, message):
    with pytest.raises(InvalidArgumentError, match=message) as caught:
        build(**arguments)
    assert list(caught.value.fields) == [field]
    assert list(caught.value.fields.values()) == [str(caught.value)]
    assert caught.value.reason
    assert caught.value.code == "INVALID_ARGUMENT"  # as the server would answer


@pytest.mark.parametrize("arguments", [
    {"kv_lengths": [0, 3]},
    {"kv_lengths": np.array([3, 3], np.uint8)},
    {"need_weights": Weights(queries=(2,))},
    {"need_weights": Weights(queries=np.int64(2), heads=2**31 - 1, top_k=2**31 - 1)},
    {"positions": [0, 2**24 - 1, 0]},
    {"request_id": "é" * 128},
    {"version": 2**63 - 1},
    {"version": np.int32(1)},
    {"key": QUERY, "value": QUERY[..., :1]},
])  # fmt: skip
def test_values_at_the_bounds_are_accepted(arguments):
    build(**arguments)


@pytest.mark.parametrize(
    ("good", "bad", "field"),
    [
        ({"version": 1}, {"version": True}, "model_version"),
        ({"version": 1}, {"version": 1.0}, "model_version"),
        ({"need_weights": True}, {"need_weights": 1}, "attn_weights"),
        ({"need_output": True}, {"need_output": 1}, "omit_output"),
        (
            {"need_weights": Weights(heads=(1, 0))},
            {"need_weights": Weights(heads=(True, False))},
            "attn_weights.heads",
        ),
        (
            {"need_weights": Weights(queries=1)},
            {"need_weights": Weights(queries=1.0)},
            "attn_weights.queries",
        ),
        (
            {"need_weights": Weights(top_k=1)},
            {"need_weights": Weights(top_k=True)},
            "attn_weights.top_k",
        ),
        (
            {"need_weights": Weights(average_heads=True)},
            {"need_weights": Weights(average_heads=1)},
            "attn_weights.average_heads",
        ),
    ],
)
def test_cached_templates_of_valid_calls_do_not_admit_invalid_ones(good, bad, field):
    for _ in range(2):
        build(**good)
    with pytest.raises(InvalidArgumentError) as caught:
        build(**bad)
    assert list(caught.value.fields) == [field]


def test_changed_weights_are_read_again():
    heads = [0, 1]
    wanted = Weights(heads=heads)
    assert list(build(need_weights=wanted).attn_weights.heads) == [0, 1]
    heads.append(2)
    assert list(build(need_weights=wanted).attn_weights.heads) == [0, 1, 2]
    once = Weights(heads=iter([3]))  # hashable, and empty after it has been read
    assert list(build(need_weights=once).attn_weights.heads) == [3]
    assert list(build(need_weights=once).attn_weights.heads) == []


@pytest.mark.parametrize(
    "arguments",
    [
        {"query": QUERY.astype(np.float16)},
        {"query": QUERY[:, :2]},
        {"query": QUERY[:, None]},
        {"key": KEY},
        {"attn_mask": np.ones((3, 3), bool)},
        {"attn_mask": np.ones((3, 3), np.float32)},
        {"positions": [0, 1, 2]},
        {"key_positions": [0, 1, 2]},
        {"kv_lengths": [1, 2]},
        {"model": "n"},
        {"version": 2},
        {"request_id": "r"},
        {"need_weights": True},
        {"need_weights": Weights(dtype="float16")},
        {"need_weights": True, "need_output": False},
        {"output_dtype": "float16"},
    ],
    ids=str,
)
def test_templates_are_cached_by_every_argument(arguments):
    plain = build()
    assert build(**arguments) != plain
    assert build() == plain
    assert prepare_call(QUERY, model="m").expected.is_self_attention
    assert not prepare_call(QUERY, model="m", key=QUERY.copy()).expected.is_self_attention
    assert prepare_call(QUERY, model="m", key=QUERY).expected.is_self_attention


def test_array_elements_are_never_cached():
    for number in range(3):
        query = np.full_like(QUERY, number)
        request = build(query, positions=[number] * 3, kv_lengths=[number, 0])
        np.testing.assert_array_equal(to_array(request.query), query)
        np.testing.assert_array_equal(to_array(request.positions), [number] * 3)
        assert list(request.kv_lengths) == [number, 0]
    with pytest.raises(InvalidArgumentError, match="positions from 0"):
        build(positions=[-1, 0, 0])
    with pytest.raises(InvalidArgumentError, match="lengths from 0"):
        build(kv_lengths=[4, 0])


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", ["<f4", ">f4", "<f2", "<f8"])
def test_any_memory_layout_is_sent_row_major(order, dtype):
    query = np.asarray(np.arange(24).reshape(2, 3, 4), dtype, order=order)
    for view in (query, query[::-1], query[..., ::2]):
        np.testing.assert_array_equal(to_array(build(view).query), view)


def test_arrays_over_the_size_of_a_message_are_refused():
    # 4 GiB of zeros that take no memory
    query = np.broadcast_to(np.float32(0), (1, 2**20, 2**10))
    with pytest.raises(InvalidArgumentError, match="4,294,967,296 bytes; expected at most"):
        build(query)


def test_get_model_requests_hold_name_and_version():
    assert build_get_model_request("m", None) == pb.GetModelRequest(name="m")
    assert build_get_model_request("m", 2) == pb.GetModelRequest(name="m", version=2)
    with pytest.raises(InvalidArgumentError) as caught:
        build_get_model_request("", None)
    assert (caught.value.reason, list(caught.value.fields)) == ("REQUIRED", ["name"])
    with pytest.raises(InvalidArgumentError) as caught:
        build_get_model_request("m", -1)
    assert (caught.value.reason, list(caught.value.fields)) == ("OUT_OF_RANGE", ["version"])


@pytest.mark.parametrize("numbers", [[[[1.0, 2.0]]], [[[1, 2]]], (((1, 2.5),),)])
def test_lists_of_numbers_become_float32(numbers):
    request = build(numbers, key=numbers, attn_mask=[[0.0]])
    for tensor in (request.query, request.key, request.attn_mask):
        assert tensor.dtype == pb.DATA_TYPE_FLOAT
    assert build([np.ones((1, 2), np.float16)]).query.dtype == pb.DATA_TYPE_FLOAT16
    assert build([[[np.float64(1)]]]).query.dtype == pb.DATA_TYPE_DOUBLE
    assert build(attn_mask=[[True, False, True]]).attn_mask.dtype == pb.DATA_TYPE_BOOL


@pytest.mark.parametrize("text", ["river bank", b"river bank", ["river", "bank"]])
def test_texts_are_refused_with_the_right_call(text):
    with pytest.raises(InvalidArgumentError, match=r"client\.forward\(text, model=") as caught:
        build(text)
    assert "astype" not in str(caught.value)
    assert list(caught.value.fields) == ["query.dtype"]


@pytest.mark.parametrize("value", [None, {"a": 1}, [[None]]])
def test_objects_are_refused_without_advice_to_convert_them(value):
    with pytest.raises(InvalidArgumentError, match="expected an array of numbers; got objects"):
        build(value)


@pytest.mark.parametrize("ids", [[101, 2314], [[101, 2314]], np.array([[101]], np.int32)])
def test_token_ids_are_refused_with_the_right_call(ids):
    with pytest.raises(InvalidArgumentError, match=r"client\.forward\(token_ids=") as caught:
        build(ids)
    assert list(caught.value.fields) == ["query.dtype"]


class BFloat16Tensor:
    """Converts as torch's tensors of bfloat16 do: not at all."""

    def __array__(self, dtype=None, copy=None):
        raise TypeError("Got unsupported ScalarType BFloat16")


def test_bfloat16_tensors_of_torch_are_refused_with_the_conversion():
    for name in ("query", "key"):
        with pytest.raises(InvalidArgumentError, match=rf"^{name}: .*give {name}\.float\(\)"):
            build(**{"query": QUERY, name: BFloat16Tensor()})
