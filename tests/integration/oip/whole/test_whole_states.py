"""Hidden states and memory as inputs, the layers that run, and the words of texts."""

from __future__ import annotations

import numpy as np
import pytest
from minilm import needs_minilm
from tritonclient_requests import inputs_of, outputs_of, stock
from whole_infer import IDS, MASK, ids_of, texts_of

DECODER_IDS = np.array([[1, 4, 2], [1, 3, 0]])
DECODER = {
    "decoder_input_ids": DECODER_IDS,
    "decoder_attention_mask": np.array([[1, 1, 1], [1, 1, 0]]),
}


def infer(triton, model, given, *names, **parameters):
    """Return the outputs by name."""
    response = triton.infer(
        model, inputs_of(given), outputs=outputs_of(*names), parameters=parameters or None
    )
    return {name: response.as_numpy(name) for name in names}


@pytest.mark.parametrize("layer", [0, 1, 2])
def test_hidden_states_enter_a_layer(triton, layer):
    given, states = {"input_ids": IDS, "attention_mask": MASK}, f"hidden_states.{layer}"
    expected = infer(triton, "bert", given, states, "output", "lengths")
    given = {"hidden_states": expected.pop(states), "attention_mask": MASK}
    again = infer(triton, "bert", given, *expected, first_layer=layer)
    for name, array in expected.items():
        np.testing.assert_allclose(again[name], array, atol=1e-5)


def test_the_last_layer_that_runs(triton):
    given = {"input_ids": IDS, "attention_mask": MASK}
    expected = infer(triton, "bert", given, "hidden_states.1")["hidden_states.1"]
    response = infer(triton, "bert", given, "output", last_layer=0)
    np.testing.assert_array_equal(response["output"], expected)


@pytest.mark.parametrize("family", ["t5", "bart"])
def test_a_decoder_runs_on_a_memory(triton, family):
    names = "output", "attn_weights.cross.1", "hidden_states.decoder.1"
    encoder = {"input_ids": IDS, "attention_mask": MASK}
    expected = infer(triton, family, encoder | DECODER, *names)
    memory = {
        "encoder_hidden_states": infer(triton, family, encoder, "output")["output"],
        "encoder_attention_mask": MASK,
    }
    response = infer(triton, family, memory | DECODER, *names)
    for name in names:
        np.testing.assert_allclose(response[name], expected[name], atol=1e-5)
    states = {
        "hidden_states": expected["hidden_states.decoder.1"],
        "attention_mask": DECODER["decoder_attention_mask"],
    }
    response = infer(triton, family, memory | states, "output", first_layer="decoder.1")
    np.testing.assert_allclose(response["output"], expected["output"], atol=1e-5)


STATES = np.zeros((2, 3, 64), np.float32)
WRONG = {
    "a memory of another width": (
        {"encoder_hidden_states": STATES[..., 1:], "decoder_input_ids": DECODER_IDS},
        {},
        "encoder_hidden_states.shape: expected [-1, -1, 64]",
    ),
    "a memory of another batch": (
        {"encoder_hidden_states": STATES[:1], "decoder_input_ids": DECODER_IDS},
        {},
        "encoder_hidden_states.shape: expected (batch_size=2, memory_len, 64); got [1, 3, 64]",
    ),
    "a memory and what it is made of": (
        {"encoder_hidden_states": STATES, "input_ids": IDS, "decoder_input_ids": DECODER_IDS},
        {},
        "encoder_hidden_states: is set, but no decoder runs without its encoder",
    ),
    "a decoder without memory": (
        {"hidden_states": STATES},
        {"first_layer": "decoder.1"},
        "encoder_hidden_states: is required, because the decoder runs without the encoder",
    ),
    "two inputs of a decoder": (
        {"hidden_states": STATES, "encoder_hidden_states": STATES, **DECODER},
        {"first_layer": "decoder.1"},
        "decoder_input_ids: is set, but hidden_states enter the decoder; leave one of them out",
    ),
    "a mask with a hole": (
        {
            "encoder_hidden_states": STATES,
            "encoder_attention_mask": np.array([[1, 0, 1], [1, 1, 1]]),
            "decoder_input_ids": DECODER_IDS,
        },
        {},
        "encoder_attention_mask[0]: expected ones and then zeros",
    ),
}


@pytest.mark.parametrize(("given", "parameters", "message"), WRONG.values(), ids=WRONG)
def test_what_is_wrong_with_states_is_named(triton, given, parameters, message):
    with pytest.raises(stock.InferenceServerException) as caught:
        infer(triton, "t5", given, "output", **parameters)
    assert caught.value.status() == "StatusCode.INVALID_ARGUMENT"
    assert message in caught.value.message()


def test_weights_of_the_encoder_need_its_input(triton):
    given = {"encoder_hidden_states": STATES, "decoder_input_ids": DECODER_IDS}
    with pytest.raises(stock.InferenceServerException) as caught:
        infer(triton, "t5", given, "attn_weights.encoder.0")
    assert "'attn_weights.encoder.0' needs the input input_ids" in caught.value.message()


def test_words_select_rows(triton):
    names = "attn_weights.1", "queries.1"
    given = texts_of("the bank of the river", "river bank")
    response = triton.infer(
        "texts", given, outputs=outputs_of(*names), parameters={"queries": "bank, 0"}
    )
    assert response.as_numpy("queries.1").tolist() == [[0, 2], [0, 2]]
    everything = triton.infer("texts", given, outputs=outputs_of("attn_weights.1"))
    np.testing.assert_allclose(
        response.as_numpy("attn_weights.1"),
        everything.as_numpy("attn_weights.1")[:, :, [0, 2]],
        atol=1e-6,
    )


def test_an_outputs_own_queries_replace_words(triton):
    wanted = outputs_of("attn_weights.0", "attn_weights.1")
    wanted[1]._output.parameters["queries"].int64_param = 1
    response = triton.infer(
        "texts", texts_of("the bank of the bank"), outputs=wanted, parameters={"queries": "bank"}
    )
    assert response.as_numpy("attn_weights.0").shape[2] == 2
    assert response.as_numpy("attn_weights.1").shape[2] == 1


def test_words_of_a_decoder_are_refused(triton):
    """Its queries are the tokens of decoder_input_ids."""
    given = [*texts_of("the river bank"), *inputs_of({"decoder_input_ids": DECODER_IDS[:1]})]
    for stack in "decoder", "cross":
        with pytest.raises(stock.InferenceServerException) as caught:
            triton.infer(
                "t5-texts",
                given,
                outputs=outputs_of(f"attn_weights.{stack}.0"),
                parameters={"queries": "bank"},
            )
        expected = "parameters.queries: names words, and the decoder's queries are not the texts'"
        assert expected in caught.value.message()


def test_words_of_ids_are_refused(triton):
    with pytest.raises(stock.InferenceServerException) as caught:
        triton.infer(
            "bert", ids_of(), outputs=outputs_of("attn_weights.0"), parameters={"queries": "bank"}
        )
    assert "parameters.queries: names words" in caught.value.message()


@needs_minilm
def test_the_row_of_a_word_of_a_real_model(triton):
    text = "Tom is going to fish at the river bank."
    names, selection = ("tokens", "top_keys.0"), {"queries": "bank", "heads": 2, "top_k": 1}
    response = triton.infer(
        "minilm", texts_of(text), outputs=outputs_of(*names), parameters=selection
    )
    assert response.as_numpy("tokens")[0][response.as_numpy("top_keys.0").item()] == b"river"
