"""Arguments of forward are sent in their fields; what no model accepts is refused by name."""

from __future__ import annotations

import inspect

import numpy as np
import pytest

import polyhead
from polyhead import InvalidArgumentError, Weights
from polyhead._calls.forward_request import prepare_forward
from polyhead.v1 import forward_pb2 as pb
from polyhead.wire.tensors import to_array

TEXT = "Tom is at the river bank"
IDS = np.array([[1, 2, 3], [4, 5, 0]])
STATES = np.ones((2, 3, 4), np.float32)


def build(text=None, **arguments):
    return prepare_forward(text, **{"model": "m", **arguments}).request


def layer(number, stack="", kind=""):
    return pb.LayerRef(stack=stack, layer=number, kind=kind)


def test_text_and_model_are_enough():
    assert build(TEXT) == pb.ForwardRequest(model="m", texts=[TEXT])
    assert build([TEXT, "b"]).texts == [TEXT, "b"]
    assert build(("a", "b")).texts == ["a", "b"]


def test_every_argument_is_sent_in_its_field():
    request = build(
        hidden_states=STATES,
        first_layer=("decoder", 1),
        lengths=[3, 2],
        memory=np.ones((2, 5, 6), np.float16),
        memory_lengths=np.array([5, 1]),
        version=7,
        need_output=False,
        need_hidden_states=(0, ("decoder", 3)),
        need_weights={3: True, ("cross", 2): Weights(heads=1, queries=[0, 2], top_k=4)},
        last_layer=3,
        output_dtype="float16",
        request_id="härad",
    )
    assert (request.model_version, request.request_id) == (7, "härad")
    assert request.first_layer == layer(1, "decoder")
    assert request.omit_output
    assert request.last_layer == 3
    assert request.output_dtype == 10
    assert [*request.lengths] == [3, 2]
    assert [*request.memory_lengths] == [5, 1]
    assert [*request.hidden_states_wanted] == [layer(0), layer(3, "decoder")]
    np.testing.assert_array_equal(to_array(request.hidden_states), STATES)
    assert to_array(request.memory).dtype == np.float16
    whole, some = request.attn_weights
    assert whole.layer == layer(3)
    assert whole.HasField("selection")
    assert some.layer == layer(2, "decoder", "cross")
    assert ([*some.selection.heads], [*some.selection.queries]) == ([1], [0, 2])
    assert some.selection.top_k == 4


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int32, np.uint32, np.int64])
def test_token_ids_are_sent_as_they_are(dtype):
    request = build(token_ids=IDS.astype(dtype), lengths=(3, 2))
    np.testing.assert_array_equal(to_array(request.token_ids), IDS)
    request = build(memory=STATES, decoder_token_ids=IDS.tolist(), decoder_lengths=[1, 2])
    np.testing.assert_array_equal(to_array(request.decoder_token_ids), IDS)
    assert [*request.decoder_lengths] == [1, 2]


def test_images_and_spectrograms():
    images, frames = np.ones((2, 3, 4, 4), np.float32), np.ones((2, 8, 30))
    np.testing.assert_array_equal(to_array(build(pixel_values=images).pixel_values), images)
    request = build(input_features=frames, decoder_token_ids=IDS)
    np.testing.assert_array_equal(to_array(request.input_features), frames)


def test_all_layers_are_requested_without_their_number():
    request = build(TEXT, need_weights=True, need_hidden_states=True)
    [wanted] = request.attn_weights
    assert not wanted.HasField("layer")
    assert request.all_hidden_states
    [wanted] = build(TEXT, need_weights=Weights(heads=2, queries="bank")).attn_weights
    assert not wanted.HasField("layer")
    assert [*wanted.selection.heads] == [2]
    assert [*wanted.query_words] == ["bank"]
    nothing = build(TEXT, need_weights={}, need_hidden_states=())
    assert nothing == build(TEXT, need_weights=False, need_hidden_states=False) == build(TEXT)


def test_one_layer_of_hidden_states():
    assert [*build(TEXT, need_hidden_states=np.int64(3)).hidden_states_wanted] == [layer(3)]
    wanted = build(TEXT, need_hidden_states=("encoder", 2)).hidden_states_wanted
    assert [*wanted] == [layer(2, "encoder")]
    assert len(build(TEXT, need_hidden_states=range(4)).hidden_states_wanted) == 4


def test_words_and_indices_may_be_mixed():
    [wanted] = build(TEXT, need_weights={0: Weights(queries=["bank", 3, "Tom"])}).attn_weights
    assert [*wanted.query_words] == ["bank", "Tom"]
    assert [*wanted.selection.queries] == [3]


def weights(**selection):
    return {"need_weights": {1: Weights(**selection)}}


REFUSED = {
    "nothing": ({"text": None}, "input", "expected one of text, token_ids, .*got none"),
    "no texts": ({"text": []}, "input", "got none"),
    "two inputs": ({"token_ids": IDS}, "input", "got text and token_ids"),
    "text of bytes": ({"text": b"a"}, "texts", "expected a str, or several in order; got b'a'"),
    "a set of texts": ({"text": {"a"}}, "texts", "expected a str, or several in order; got {'a'}"),
    "text of number": ({"text": 3}, "texts", "got 3"),
    "text of numbers": ({"text": ["a", 3]}, "texts[1]", "expected a str"),
    "empty text": ({"text": ["a", " \n"]}, "texts[1]", r"text\[1\]: is empty; expected a text"),
    "text of surrogates": ({"text": "\udcff"}, "texts[0]", "lone surrogates"),
    "ids of float": ({"text": None, "token_ids": [[1.0]]}, "token_ids.dtype", "integers; got floa"),
    "ids of bool": ({"text": None, "token_ids": [[True]]}, "token_ids.dtype", "got bool"),
    "ids without batch": (
        {"text": None, "token_ids": [1, 2]},
        "token_ids.shape",
        r"expected 2 axes \(batch_size, seq_len\).*add the batch axis, token_ids\[None\]",
    ),
    "no ids": ({"text": None, "token_ids": [[]]}, "token_ids.shape", "none empty"),
    "ids ragged": ({"text": None, "token_ids": [[1], [2, 3]]}, "token_ids", "give their lengths"),
    "images of bytes": (
        {"text": None, "pixel_values": np.ones((1, 3, 2, 2), np.uint8)},
        "pixel_values.dtype",
        r"convert with \.astype",
    ),
    "image": (
        {"text": None, "pixel_values": np.ones((3, 2, 2))},
        "pixel_values.shape",
        r"\(batch_size, channels, height, width\).*add the batch axis",
    ),
    "states of two axes": (
        {"text": None, "hidden_states": STATES[0]},
        "hidden_states.shape",
        "add the batch axis",
    ),
    "lengths of text": ({"lengths": [1]}, "lengths", "without token_ids or hidden_states"),
    "length 0": (
        {"text": None, "token_ids": IDS, "lengths": [0, 1]},
        "lengths[0]",
        "from 1 to seq_len = 3; got 0 for sequence 0",
    ),
    "length beyond": ({"text": None, "token_ids": IDS, "lengths": [3, 4]}, "lengths[1]", "got 4"),
    "one length": ({"text": None, "token_ids": IDS, "lengths": [3]}, "lengths", "expected 2 integ"),
    "lengths of float": ({"text": None, "token_ids": IDS, "lengths": [1.0]}, "lengths", "integers"),
    "memory and text": (
        {"memory": STATES[:1], "decoder_token_ids": IDS[:1]},
        "memory",
        "is the encoder's output, and text its input",
    ),
    "memory alone": ({"text": None, "memory": STATES}, "input", "got memory"),
    "decoder alone": ({"text": None, "decoder_token_ids": IDS}, "input", "got decoder_token_ids"),
    "memory of another batch": (
        {"text": None, "memory": STATES[:1], "decoder_token_ids": IDS},
        "decoder_token_ids.shape",
        "the batch_size of memory, 1; got 2",
    ),
    "decoder of another batch": (
        {"decoder_token_ids": IDS},
        "decoder_token_ids.shape",
        "the batch_size of text, 1; got 2",
    ),
    "memory's lengths": ({"memory_lengths": [1]}, "memory_lengths", "without memory"),
    "decoder's lengths": ({"decoder_lengths": [1]}, "decoder_lengths", "without decoder_token_ids"),
    "first layer of text": ({"first_layer": 1}, "first_layer", "without hidden_states"),
    "first layer negative": (
        {"text": None, "hidden_states": STATES, "first_layer": -1},
        "first_layer",
        "counted from 0; got -1",
    ),
    "first layer of cross": (
        {"text": None, "hidden_states": STATES, "first_layer": ("cross", 1)},
        "first_layer",
        "one of encoder, decoder, text, vision",
    ),
    "last layer pair": (
        {"last_layer": ("decoder", 1)},
        "last_layer",
        "expected a layer's number fro",
    ),
    "last layer True": ({"last_layer": True}, "last_layer", "got True"),
    "truncate 1": ({"truncate": 1}, "truncate", "expected True or False; got 1"),
    "nothing wanted": ({"need_output": False}, "omit_output", "nothing to send"),
    "states of text": ({"need_hidden_states": "all"}, "hidden_states_wanted", "got 'all'"),
    "states None": ({"need_hidden_states": None}, "hidden_states_wanted", "got None"),
    "states of float": ({"need_hidden_states": [0, 1.0]}, "hidden_states_wanted[1]", "got 1.0"),
    "states twice": ({"need_hidden_states": (1, 2, 1)}, "hidden_states_wanted", "1 more than once"),
    "states of cross": ({"need_hidden_states": ("cross", 1)}, "hidden_states_wanted[0]", "got"),
    "weights of layers": (
        {"need_weights": (1, 2)},
        "attn_weights[0]",
        r"\{3: True\}; got \(1, 2",
    ),
    "weights of a word": ({"need_weights": "bank"}, "attn_weights[0]", "a mapping from layers"),
    "weights of None": ({"need_weights": None}, "attn_weights[0]", "expected True, False, Weights"),
    "weights False": (
        {"need_weights": {0: True, 1: False}},
        "attn_weights[1]",
        r"need_weights\[1\]: expected True or Weights; got False",
    ),
    "layer of text": ({"need_weights": {"3": True}}, "attn_weights[0].layer", "got '3'"),
    "layer negative": ({"need_weights": {-1: True}}, "attn_weights[0].layer", "from 0; got -1"),
    "layer of unknown stack": (
        {"need_weights": {("tower", 0): True}},
        "attn_weights[0].layer",
        r"encoder, decoder, text, vision, cross; got \('tower', 0\)",
    ),
    "head twice": (weights(heads=(1, 1)), "attn_weights[0].selection.heads", "each index once"),
    "query negative": (weights(queries=[-1]), "attn_weights[0].selection.queries[0]", "got -1"),
    "query of float": (weights(queries=[1.5]), "attn_weights[0].selection.queries", "got"),
    "top 0": (weights(top_k=0), "attn_weights[0].selection.top_k", r"need_weights\[1\]\.top_k"),
    "stage unknown": (weights(stage="x"), "attn_weights[0].selection.stage", "got 'x'"),
    "weights of int": (weights(dtype="int8"), "attn_weights[0].selection.dtype", "got int8"),
    "word twice": (weights(queries=["a", "a"]), "attn_weights[0].query_words", "'a' more than"),
    "empty word": (weights(queries=""), "attn_weights[0].query_words", "not empty"),
    "word of ids": (
        {"text": None, "token_ids": IDS, **weights(queries="bank")},
        "attn_weights[0].query_words",
        "only texts have words; got 'bank'",
    ),
    "output of int": ({"output_dtype": "int8"}, "output_dtype", "got int8"),
    "no model": ({"model": ""}, "model", "not empty"),
    "version 0": ({"version": 0}, "model_version", "expected a whole number from 1"),
    "id too long": ({"request_id": "é" * 129}, "request_id", "at most 256 bytes"),
}


@pytest.mark.parametrize(("arguments", "field", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_invalid_arguments_are_refused(arguments, field, message):
    with pytest.raises(InvalidArgumentError, match=message) as caught:
        build(**{"text": TEXT, **arguments})
    assert list(caught.value.fields) == [field]
    assert caught.value.code == "INVALID_ARGUMENT"
    assert caught.value.reason


def test_both_clients_have_the_same_arguments():
    sync, other = (
        inspect.signature(client.forward).parameters
        for client in (polyhead.Client, polyhead.AsyncClient)
    )
    assert sync == other
    assert sync.keys() - {"self", "timeout"} == inspect.signature(prepare_forward).parameters.keys()
