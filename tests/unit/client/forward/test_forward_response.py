"""Responses of Forward become results; what a response lacks is the server's error."""

from __future__ import annotations

from contextlib import suppress

import fake_whole
import ml_dtypes
import numpy as np
import pytest

from polyhead import InvalidArgumentError, ServerError, Weights
from polyhead._calls.forward_errors import errors_name_arguments
from polyhead._calls.forward_request import prepare_forward
from polyhead._calls.forward_response import parse_forward_response
from polyhead.v1 import forward_pb2 as pb
from polyhead.wire.tensors import to_tensor

TEXTS = ["Tom is at the river bank", "the bank"]
WANTED = {"need_weights": {1: Weights(queries="bank", top_k=3), 0: True}, "need_hidden_states": 2}


def answer(text=TEXTS, *, model="bert", damage=lambda response: None, **arguments):
    call = prepare_forward(text, model=model, **arguments)
    response = fake_whole.forward(pb.ForwardRequest.FromString(call.request.SerializeToString()))
    damage(response)
    return parse_forward_response(call.expected, response.SerializeToString())


def test_a_result_has_everything_that_was_requested():
    result = answer(**WANTED, request_id="r")
    assert result.output.shape == (2, 9, 4)
    assert {key: states.shape for key, states in result.hidden_states.items()} == {2: (2, 9, 4)}
    assert {key: weights.shape for key, weights in result.attn_weights.items()} == {
        1: (2, 2, 1, 3),
        0: (2, 2, 9, 9),
    }
    assert result.top_keys[1].shape == (2, 2, 1, 3)
    assert list(result.top_keys) == [1]
    assert result.queries[1].tolist() == [[7], [2]]
    assert result.queries[0].tolist() == [list(range(9))] * 2
    assert result.selections == {1: Weights(queries=(), top_k=3, heads=()), 0: Weights()}
    assert result.request_id == "r"
    assert result.execution.model == "bert"
    assert result.layers_run == {"encoder": range(3)}


def test_tokens_of_texts():
    result = answer()
    assert result.tokens[1] == ["[CLS]", "the", "bank", "[SEP]"]
    assert result.token_spans[1] == [(0, 0), (0, 3), (4, 8), (8, 8)]
    assert result.lengths.tolist() == [9, 4]
    assert result.token_ids.shape == (2, 9)
    assert result.token_ids[1, 4:].tolist() == [0] * 5
    assert result.texts == tuple(TEXTS)
    again = answer(None, token_ids=result.token_ids, lengths=result.lengths)
    np.testing.assert_array_equal(again.output, result.output)
    assert again.tokens == []
    np.testing.assert_array_equal(again.token_ids, result.token_ids)


def test_arrays_are_read_only():
    result = answer(**WANTED)
    arrays = [result.output, result.lengths, result.token_ids]
    for named in (result.hidden_states, result.attn_weights, result.top_keys, result.queries):
        arrays += named.values()
    assert not any(array.flags.writeable for array in arrays)


def test_layers_of_several_stacks_are_pairs():
    ids = np.array([[1, 2, 3], [4, 5, 6]])
    both = {"decoder_token_ids": ids, "decoder_lengths": [3, 1], "model": "t5"}
    result = answer(**both, need_weights=True, need_hidden_states=True)
    assert list(result.attn_weights)[:4] == [
        ("encoder", 0), ("encoder", 1), ("encoder", 2), ("decoder", 0),
    ]  # fmt: skip
    assert result.attn_weights["cross", 2].shape == (2, 2, 3, 9)
    assert list(result.hidden_states)[-1] == ("decoder", 3)
    assert result.decoder_lengths.tolist() == [3, 1]
    named = answer(**both, need_weights={("cross", 1): True}, need_hidden_states=("encoder", 1))
    assert list(named.attn_weights) == [("cross", 1)]
    assert list(named.hidden_states) == [("encoder", 1)]
    # the encoder alone is still one of two stacks
    alone = answer(model="t5", need_weights=True)
    assert list(alone.attn_weights) == [("encoder", 0), ("encoder", 1), ("encoder", 2)]


def test_layers_have_the_names_of_the_request():
    result = answer(need_weights={("encoder", 2): True}, need_hidden_states=[("encoder", 0), 3])
    assert list(result.attn_weights) == [("encoder", 2)]
    assert list(result.hidden_states) == [("encoder", 0), 3]


def test_the_same_selection_of_all_layers():
    result = answer(need_weights=Weights(queries="bank", average_heads=True), need_output=False)
    assert result.output is None
    assert [weights.shape for weights in result.attn_weights.values()] == [(2, 1, 1, 9)] * 3
    assert all(queries.tolist() == [[7], [2]] for queries in result.queries.values())


def test_bfloat16_is_returned_in_the_requested_dtype():
    assert answer(output_dtype="bfloat16").output.dtype == np.float32
    result = answer(output_dtype=ml_dtypes.bfloat16, need_weights={0: True})
    assert result.output.dtype == ml_dtypes.bfloat16
    assert result.attn_weights[0].dtype == ml_dtypes.bfloat16
    wanted = {0: Weights(dtype=ml_dtypes.bfloat16), 1: Weights(dtype="float16")}
    result = answer(need_weights=wanted)
    assert result.output.dtype == np.float32
    assert result.attn_weights[0].dtype == ml_dtypes.bfloat16
    assert result.attn_weights[1].dtype == np.float16


def test_a_description_is_short():
    text = repr(answer(**WANTED))
    assert "attn_weights={1: <float32 (2, 2, 1, 3)>, 0: <float32 (2, 2, 9, 9)>}" in text
    assert "lengths=[9, 4]" in text
    assert len(text) < 600


def drop(*names):
    def damage(response):
        for name in names:
            response.ClearField(name)

    return damage


def of_weights(**changes):
    def damage(response):
        for name, value in changes.items():
            response.attn_weights[0].ClearField(name)
            if value is not None:
                getattr(response.attn_weights[0], name).CopyFrom(to_tensor(value))

    return damage


LACKING = {
    "output": (drop("output"), "no array for output"),
    "hidden states": (drop("hidden_states"), "0 hidden_states: expected 1"),
    "weights": (drop("attn_weights"), "0 attn_weights: expected 2"),
    "tokens": (drop("tokens"), "0 tokens: expected 2"),
    "lengths": (drop("lengths"), "0 lengths: expected 2"),
    "a layer's weights": (of_weights(attn_weights=None), "no array for attn_weights of layer 1"),
    "weights of one sequence": (
        of_weights(attn_weights=np.ones((1, 2, 1, 3), np.float32)),
        r"shape \(1, 2, 1, 3\): expected 4 axes and a batch size of 2",
    ),
    "top keys": (of_weights(top_keys=None), "no array for top_keys of layer 1"),
    "other top keys": (
        of_weights(top_keys=np.ones((2, 2, 1, 2), np.int32)),
        r"top_keys of layer 1, int32 of shape \(2, 2, 1, 2\): expected int32 of .*\(2, 2, 1, 3\)",
    ),
    "top keys of float": (
        of_weights(top_keys=np.ones((2, 2, 1, 3), np.float32)),
        "top_keys of layer 1, float32 of shape .*: expected int32",
    ),
    "queries of words": (of_weights(queries=None), "no array for queries of layer 1"),
}


@pytest.mark.parametrize(("damage", "message"), LACKING.values(), ids=LACKING)
def test_a_response_that_lacks_something_is_the_servers_error(damage, message):
    with pytest.raises(ServerError, match=message):
        answer(**WANTED, damage=damage)


def test_rows_that_were_not_selected_are_the_servers_error():
    def damage(response):
        other = np.ones((2, 2, 3, 9), np.float32)
        response.attn_weights[0].attn_weights.CopyFrom(to_tensor(other))

    with pytest.raises(ServerError, match="3 queries of layer 0: expected 2"):
        answer(need_weights={0: Weights(queries=(0, 1))}, damage=damage)


def test_large_arrays_are_views_of_the_response():
    ids = np.ones((1, 200), int)
    call = prepare_forward(token_ids=ids, model="bert", need_weights=True)
    data = fake_whole.forward(call.request).SerializeToString()
    result = parse_forward_response(call.expected, data)
    for weights in result.attn_weights.values():
        assert weights.base is data
    assert result.output.base is not data  # it is small
    assert result.output.nbytes < 64 * 1024 < result.attn_weights[0].nbytes


def test_unusual_bytes_are_read_as_protobuf_reads_them():
    call = prepare_forward(TEXTS, model="bert", **WANTED)
    data = fake_whole.forward(call.request).SerializeToString()
    first = parse_forward_response(call.expected, data)
    unknown = b"\xfa\x01\x03abc"  # field 31, of a later version
    twice = data + pb.ForwardResponse(output=pb.ForwardResponse().output).SerializeToString()
    for other in (data + unknown, unknown + data, twice + b"\x12\x00"):
        result = parse_forward_response(call.expected, other)
        np.testing.assert_array_equal(result.output, first.output)
        np.testing.assert_array_equal(result.attn_weights[0], first.attn_weights[0])


@pytest.mark.parametrize("data", [b"\xff", b"\x12\x05", b"\x22\x02\x0a\x09", b"\x0a\x01\xff"])
def test_bytes_that_are_no_response_are_the_servers_error(data):
    call = prepare_forward(TEXTS, model="bert")
    with pytest.raises(ServerError, match="could not be read"):
        parse_forward_response(call.expected, data)


@pytest.mark.parametrize("field", ["attn_weights", "hidden_states"])
def test_a_layer_that_comes_twice_is_the_servers_error(field):
    def damage(response):
        layers = getattr(response, field)
        layers[1].layer.CopyFrom(layers[0].layer)

    with pytest.raises(ServerError, match=f" {field} of different layers: expected [34]"):
        answer(need_weights=True, need_hidden_states=True, damage=damage)


@pytest.mark.parametrize("index", ["7", "9" * 5000])
def test_an_error_about_unrequested_weights_keeps_its_field(index):
    field = f"attn_weights[{index}].top_k"
    expected = prepare_forward("a", model="m", need_weights=True).expected
    error = InvalidArgumentError(f"{field}: too many", fields={field: "too many"})
    with pytest.raises(InvalidArgumentError) as caught, errors_name_arguments(expected):
        raise error
    assert str(caught.value) == f"{field}: too many"


def test_damaged_bytes_are_the_servers_error_or_a_result():
    call = prepare_forward(TEXTS, model="bert", **WANTED)
    data = fake_whole.forward(call.request).SerializeToString()
    chance = np.random.default_rng(0)
    for _ in range(2000):
        damaged = bytearray(data[: chance.integers(1, len(data) + 1)])
        for place in chance.integers(0, len(damaged), chance.integers(0, 4)):
            damaged[place] = chance.integers(256)
        with suppress(ServerError):
            parse_forward_response(call.expected, bytes(damaged))
