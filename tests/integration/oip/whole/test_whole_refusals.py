"""What is wrong with a request to a whole model is named as the protocol names it."""

from __future__ import annotations

import numpy as np
import pytest
from tritonclient_requests import inputs_of, outputs_of, stock
from whole_infer import IDS, MASK, ids_of, texts_of

from polyhead_server.running import running_server


def bad(arrays, outputs=(), **parameters):
    return arrays, outputs, parameters


STATES = np.zeros((2, 4, 64), np.float32)
BYTES_OF_LATIN_1 = np.array([b"\xe9"], np.object_)
WRONG = {
    "nothing": (bad({}), "inputs: expected one of text, input_ids, hidden_states; got no such in"),
    "both": (
        bad({"text": np.array([b"a"], np.object_), "input_ids": IDS}),
        "inputs: expected one of text, input_ids, hidden_states; got text and input_ids",
    ),
    "an unknown input": (bad({"token_ids": IDS}), "inputs[0].name: expected one of text, text_p"),
    "another type": (
        bad({"input_ids": IDS.astype(np.float32)}),
        "input_ids.datatype: expected INT64 or INT32; got FP32",
    ),
    "a type for texts": (bad({"text": IDS}), "text.datatype: expected BYTES; got INT64"),
    "texts in a square": (
        bad({"text": np.full((2, 2), b"a", np.object_)}),
        "text.shape: expected [-1, 1]",
    ),
    "no texts": (bad({"text": np.empty(0, np.object_)}), "text.shape: expected a batch size"),
    "texts that are not UTF-8": (bad({"text": BYTES_OF_LATIN_1}), "text.data: expected UTF-8"),
    "an empty text": (bad({"text": np.array([b"a", b" "], np.object_)}), "text[1]: is empty"),
    "one axis": (bad({"input_ids": IDS[0]}), "input_ids.shape: expected [-1, -1]"),
    "no tokens": (bad({"input_ids": IDS[:, :0]}), "input_ids.shape: every axis must have"),
    "an id": (
        bad({"input_ids": IDS + 36}),
        "input_ids[0, 1]: expected token ids from 0 to 39; got 40",
    ),
    "many tokens": (
        bad({"input_ids": np.ones((1, 65), np.int64)}),
        "input_ids: has a sequence of 65 tokens, and the model takes 64",
    ),
    "a mask on the left": (
        bad({"input_ids": IDS, "attention_mask": MASK[:, ::-1]}),
        "attention_mask[1]: expected ones and then zeros",
    ),
    "a mask with a hole": (
        bad({"input_ids": IDS, "attention_mask": np.array([[1, 0, 1, 0], [1, 1, 1, 1]])}),
        "attention_mask[0]: expected ones and then zeros",
    ),
    "a mask of other numbers": (
        bad({"input_ids": IDS, "attention_mask": MASK * 2}),
        "attention_mask[0]: expected ones and then zeros",
    ),
    "an empty mask": (
        bad({"input_ids": IDS, "attention_mask": MASK * [[1], [0]]}),
        "attention_mask[1]: expected at least one token; got zeros only",
    ),
    "another mask": (
        bad({"input_ids": IDS, "attention_mask": MASK[:, :3]}),
        "attention_mask.shape: expected [2, 4], as input_ids has; got [2, 3]",
    ),
    "a mask alone": (
        bad({"text": np.array([b"a"], np.object_), "attention_mask": MASK}),
        "attention_mask: is the mask of input_ids or hidden_states, which is not given",
    ),
    "a type": (
        bad({"input_ids": IDS, "token_type_ids": np.array([[0, 0, 0, 0], [0, 0, 2, 1]])}),
        "token_type_ids[1, 2]: expected types from 0 to 1; got 2",
    ),
    "other types": (
        bad({"input_ids": IDS, "token_type_ids": 0 * IDS[:, :3]}),
        "token_type_ids.shape: expected [2, 4], as input_ids has; got [2, 3]",
    ),
    "types alone": (
        bad({"text": np.array([b"a"], np.object_), "token_type_ids": 0 * IDS}),
        "token_type_ids: has the types of input_ids, which is not given; leave it out",
    ),
    "a second text alone": (
        bad({"input_ids": IDS, "text_pair": np.array([b"a"], np.object_)}),
        "text_pair: has the second texts of text, which is not given; leave it out",
    ),
    "an unknown output": (
        bad({"input_ids": IDS}, ["attn_weights.2"]),
        "hidden_states.0 to hidden_states.2, attn_weights.0 to attn_weights.1, top_keys.0 to ",
    ),
    "one output by two names": (
        bad({"input_ids": IDS}, ["output", "last_hidden_state"]),
        "outputs[1].name: output and last_hidden_state are the same",
    ),
    "tokens without texts": (
        bad({"input_ids": IDS}, ["tokens"]),
        "outputs[0].name: 'tokens' needs the input text, which is not given",
    ),
    "keys without top_k": (
        bad({"input_ids": IDS}, ["top_keys.0"]),
        "outputs[0].name: exists only with the parameter top_k",
    ),
    "a selection of nothing": (
        bad({"input_ids": IDS}, ["output"], heads=0),
        "parameters.heads: is about attention weights, and none are asked for",
    ),
    "a head": (
        bad({"input_ids": IDS}, ["output", "attn_weights.1"], heads="0,4"),
        "parameters.heads[1]: expected 0 to num_heads - 1 = 3; got 4",
    ),
    "a query": (
        bad({"text": np.array([b"the"], np.object_)}, ["attn_weights.1"], queries=3),
        "parameters.queries[0]: expected 0 to q_seq_len - 1 = 2; got 3",
    ),
    "a stage": (bad({"input_ids": IDS}, ["attn_weights.0"], stage="x"), "parameters.stage: exp"),
    "a word of no text": (
        bad({"input_ids": IDS}, ["attn_weights.0"], queries="river"),
        "parameters.queries: names words, and the request has no texts",
    ),
    "a word that is not there": (
        bad({"text": np.array([b"the river"], np.object_)}, ["attn_weights.0"], queries="bank"),
        "parameters.queries: 'bank' is not a word of text 0",
    ),
    "rows of words without words": (
        bad({"input_ids": IDS}, ["queries.0"], queries="0"),
        "outputs[0].name: exists only with words in the parameter queries: set it",
    ),
    "a layer for no hidden states": (
        bad({"input_ids": IDS}, first_layer=1),
        "parameters.first_layer: is set without hidden_states",
    ),
    "a first layer": (
        bad({"hidden_states": STATES}, first_layer=3),
        "parameters.first_layer: expected a layer from 0 to 2; got 3",
    ),
    "the first layer of a stack": (
        bad({"hidden_states": STATES}, first_layer="decoder.1"),
        "parameters.first_layer: expected encoder, which the model has; got 'decoder'",
    ),
    "a first layer without a number": (
        bad({"hidden_states": STATES}, first_layer="last"),
        "parameters.first_layer: expected a layer's number, or a string such as 'decoder.3'",
    ),
    "the width of hidden states": (
        bad({"hidden_states": STATES[..., 1:]}),
        "hidden_states.shape: expected [-1, -1, 64], where -1 is any length; got [2, 4, 63]",
    ),
    "a last layer": (
        bad({"input_ids": IDS}, last_layer=2),
        "parameters.last_layer: expected a layer from 0 to 1; got 2",
    ),
    "a last layer below a wanted one": (
        bad({"input_ids": IDS}, ["attn_weights.1"], last_layer=0),
        "parameters.last_layer: is 0, but layer 1 is needed; raise it, or leave it out",
    ),
    "truncate": (bad({"input_ids": IDS}, truncate=1), "parameters.truncate: expected a bool"),
}


@pytest.mark.parametrize(("request_", "message"), WRONG.values(), ids=WRONG)
def test_what_is_wrong_is_named(triton, request_, message):
    arrays, outputs, parameters = request_
    with pytest.raises(stock.InferenceServerException) as caught:
        triton.infer(
            "texts",
            inputs_of(arrays),
            outputs=outputs_of(*outputs) or None,
            parameters=parameters or None,
        )
    assert caught.value.status() == "StatusCode.INVALID_ARGUMENT"
    assert message in caught.value.message()


@pytest.mark.parametrize(
    ("output", "name", "value", "message"),
    [
        ("attn_weights.0", "heads", "9", "outputs[0].parameters.heads[0]: expected 0 to num_heads"),
        ("attn_weights.0", "stage", "x", "outputs[0].parameters.stage: expected a string"),
        ("output", "heads", "0", "outputs[0].parameters.heads: is about attention weights"),
    ],
)
def test_a_parameter_of_an_output_is_named(triton, output, name, value, message):
    wanted = outputs_of(output)
    wanted[0]._output.parameters[name].string_param = value
    with pytest.raises(stock.InferenceServerException) as caught:
        triton.infer("bert", ids_of(), outputs=wanted)
    assert message in caught.value.message()


def test_a_model_without_a_tokenizer_takes_no_texts(triton):
    with pytest.raises(stock.InferenceServerException) as caught:
        triton.infer("bert", texts_of("the river"))
    expected = "expected one of input_ids, token_type_ids, hidden_states, attention_mask; got 'text"
    assert f"inputs[0].name: {expected}" in caught.value.message()


def test_a_model_without_token_types_takes_none(triton):
    with pytest.raises(stock.InferenceServerException) as caught:
        triton.infer("gpt2", inputs_of({"input_ids": IDS, "token_type_ids": 0 * IDS}))
    expected = "expected one of input_ids, hidden_states, attention_mask; got 'token_type_ids'"
    assert f"inputs[1].name: {expected}" in caught.value.message()


def test_responses_that_would_be_too_large_are_refused(repository):
    with (
        running_server(repository, threads=1, max_response_bytes=20_000) as server,
        stock.InferenceServerClient(server.target) as client,
    ):
        for model, given, names in (
            ("texts", ids_of(np.ones((1, 60), np.int64), None), ["attn_weights.0"]),
            # padding counts: one text of 62 tokens, and 39 of three
            ("texts", texts_of("river " * 60, *["river"] * 39), ["input_ids"]),
        ):
            with pytest.raises(stock.InferenceServerException) as caught:
                client.infer(model, given, outputs=outputs_of(*names))
            assert caught.value.status() == "StatusCode.RESOURCE_EXHAUSTED"
            assert "raise its --max-response-bytes" in caught.value.message()
        few = client.infer(
            "texts", ids_of(np.ones((1, 60), np.int64), None), outputs=outputs_of("attn_weights.0"),
            parameters={"top_k": 1, "heads": 0},
        )  # fmt: skip
        assert few.as_numpy("attn_weights.0").shape == (1, 1, 60, 1)


def test_a_timeout_of_the_callers_own(triton):
    assert triton.infer("bert", ids_of(), timeout=10_000_000).as_numpy("output") is not None
    with pytest.raises(stock.InferenceServerException) as caught:
        triton.infer("bert", ids_of(), timeout=1)
    assert caught.value.status() == "StatusCode.DEADLINE_EXCEEDED"
