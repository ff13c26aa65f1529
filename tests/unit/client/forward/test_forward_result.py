"""ForwardResult: what a word looks at, pictures, and what other libraries take, without padding."""

from __future__ import annotations

import sys
import types

import fake_whole
import numpy as np
import pytest
from fake_whole import whole_weights

from polyhead import InvalidArgumentError, MissingExtraError, Weights, viz
from polyhead._calls.forward_request import prepare_forward
from polyhead._calls.forward_response import parse_forward_response
from polyhead.results import exchange

TEXTS = ["Tom is at the river bank", "the embankment"]
TOKENS = ["[CLS]", "tom", "is", "at", "the", "rive", "##r", "bank", "[SEP]"]
SECOND = ["[CLS]", "the", "emba", "##nkme", "##nt", "[SEP]"]
IDS = np.array([[1, 2, 3], [4, 5, 6]])


def answer(text=TEXTS, *, model="bert", need_weights=True, **arguments):
    call = prepare_forward(text, model=model, need_weights=need_weights, **arguments)
    response = fake_whole.forward(call.request).SerializeToString()
    return parse_forward_response(call.expected, response)


def weights_of(layer, length, kind="self", keys=None):
    return whole_weights(layer, kind, [length], [keys or length])[0]


def largest(row, tokens, count):
    order = np.argsort(-row, kind="stable")[:count]
    return [(tokens[key], pytest.approx(float(row[key]))) for key in order]


# --- top


def test_top_names_the_tokens_of_the_text():
    result = answer()
    expected = largest(weights_of(1, 9)[1, 7], TOKENS, 3)
    assert result.top("bank", layer=1, head=1, k=3) == expected
    mean = weights_of(2, 9)[:, 0].mean(axis=0)
    assert result.top("[CLS]", layer=2) == largest(mean, TOKENS, 5)


def test_a_word_of_several_tokens_is_its_last_one():
    result = answer()
    expected = largest(weights_of(0, 6)[0, 4], SECOND, 6)
    assert result.top("embankment", layer=0, head=0, batch=1, k=None) == expected
    assert result.top("##nt", layer=0, head=0, batch=1, k=None) == expected
    assert result.top(4, layer=0, head=0, batch=1, k=None) == expected
    river = answer(need_weights={0: Weights(queries="river")}, text=TEXTS[0])
    assert river.queries[0].tolist() == [[6]]
    assert river.top("river", head=0) == largest(weights_of(0, 9)[0, 6], TOKENS, 5)


def test_top_of_top_k_in_texts_of_unequal_lengths():
    result = answer(need_weights={2: Weights(queries="the", top_k=8)})
    assert result.top("the", head=0, k=None) == largest(weights_of(2, 9)[0, 4], TOKENS, 8)
    second = result.top("the", head=0, batch=1, k=None)  # it has 6 tokens and no more
    assert second == largest(weights_of(2, 6)[0, 1], SECOND, 6)


def test_tokens_of_other_stacks_are_positions_or_arguments():
    result = answer(model="t5", decoder_token_ids=IDS, decoder_lengths=[3, 2])
    cross = weights_of(0, 2, "cross", 6)[0, 1]
    expected = largest(cross, SECOND, 5)
    assert result.top(1, layer=("cross", 0), head=0, batch=1) == expected
    named = {"tokens": ["<s>", "Ufer"], "batch": 1, "head": 0}
    assert result.top("Ufer", layer=("cross", 0), **named) == expected
    own = largest(weights_of(0, 2)[0, 1], ["0", "1"], 2)
    assert result.top(1, layer=("decoder", 0), head=0, batch=1) == own
    assert result.top("tom", layer=("encoder", 0), k=1)
    ids = answer(None, token_ids=IDS, need_weights={0: True})
    assert ids.top(2, head=0, k=1) == largest(weights_of(0, 3)[0, 2], list("012"), 1)


def test_towers():
    images = np.ones((2, 3, 8, 8), np.float32)
    result = answer(None, pixel_values=images, model="clip")
    assert list(result.attn_weights) == [("vision", 0), ("vision", 1), ("vision", 2)]
    assert len(result.top(4, layer=("vision", 1), k=None)) == 5
    some = answer(
        None, pixel_values=images, model="clip", need_weights={("vision", 0): Weights(queries=1)}
    )
    assert len(some.top(1, k=None)) == 5


REFUSED = {
    "several layers": ({}, {"word": "bank"}, "layer: expected one of 0, 1, 2; got None"),
    "layer": ({}, {"word": "bank", "layer": 3}, "layer: expected one of 0, 1, 2; got 3"),
    "batch": ({}, {"word": "bank", "layer": 0, "batch": 2}, "0 to below 2 sequences; got 2"),
    "negative": ({}, {"word": "bank", "layer": 0, "batch": -1}, "got -1"),
    "head": ({}, {"word": "bank", "layer": 0, "head": 2}, "head: expected one of 0, 1; got 2"),
    "word": ({}, {"word": "water", "layer": 0}, "expected one of the tokens.* got 'water'"),
    "padding": ({}, {"word": 7, "layer": 0, "batch": 1}, "from 0 to below 6; got 7"),
    "not selected": (
        {"need_weights": {0: Weights(queries="the")}},
        {"word": "embankment", "batch": 1},
        "'embankment' is query 4, and these weights are of 1",
    ),
    "no weights": ({"need_weights": False}, {"word": "bank"}, "no attention weights: ask for them"),
    "no such row": (
        {"need_weights": {0: Weights(queries=8)}},
        {"word": 8, "batch": 1},
        "sequence 1 has none of the queries that were selected",
    ),
}


@pytest.mark.parametrize(("asked", "arguments", "message"), REFUSED.values(), ids=REFUSED)
def test_views_that_cannot_be_are_refused(asked, arguments, message):
    with pytest.raises(InvalidArgumentError, match=message):
        answer(**asked).top(**arguments)


def test_a_word_that_occurs_twice_needs_its_index():
    result = answer("the river is the Rhine")
    with pytest.raises(InvalidArgumentError, match="'the' occurs at 1, 5: give one of these"):
        result.top("the", layer=0)
    # "riverbank" is another word
    places = answer("bank, riverbank").top("bank", layer=0, head=0, k=1)
    assert places == answer("bank, riverbank").top(1, layer=0, head=0, k=1)


# --- pictures


def labels(axis):
    return [label.get_text() for label in axis.get_ticklabels()]


def test_a_layer_is_drawn_with_its_tokens():
    figure = answer().plot(layer=1, batch=1)
    assert figure.get_suptitle() == "bert, layer 1"
    assert [axes.get_title() for axes in figure.axes[:2]] == ["head 0", "head 1"]
    assert labels(figure.axes[0].yaxis) == labels(figure.axes[0].xaxis) == SECOND
    [image] = answer().plot(layer=1, batch=1, head=1).axes[0].images
    np.testing.assert_allclose(image.get_array(), weights_of(1, 6)[1])
    cross = answer(model="t5", decoder_token_ids=IDS).plot(layer=("cross", 2))
    assert cross.get_suptitle() == "t5, cross layer 2"
    assert labels(cross.axes[1].xaxis) == TOKENS  # below the last head
    assert labels(cross.axes[0].yaxis) == ["0", "1", "2"]


def test_all_layers_and_heads_are_drawn_as_a_grid():
    figure = answer().plot(layers=True, batch=1)
    axes = figure.axes[0]
    assert labels(axes.xaxis) == ["head 0", "head 1"]
    assert labels(axes.yaxis) == ["layer 0", "layer 1", "layer 2"]
    assert [image.get_array().shape for image in axes.images] == [(6, 6)] * 6
    np.testing.assert_allclose(axes.images[3].get_array(), weights_of(1, 6)[1])
    assert figure._repr_png_().startswith(b"\x89PNG")
    assert labels(answer().plot(layers=(2, 0)).axes[0].yaxis) == ["layer 2", "layer 0"]
    assert labels(answer().plot(layers=True, head=1).axes[0].xaxis) == ["head 1"]
    both = answer(model="t5", decoder_token_ids=IDS).plot(layers=True)
    assert "cross layer 1" in labels(both.axes[0].yaxis)


def test_pictures_name_the_extra_that_they_need(monkeypatch):
    monkeypatch.setattr(viz, "find_spec", lambda name: None)
    for arguments in ({"layer": 0}, {"layers": True}):
        with pytest.raises(MissingExtraError, match=r"pip install 'polyhead\[viz\]'"):
            answer().plot(**arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"layers": 3}, "layers: expected True, False or a sequence of layers; got 3"),
        ({"layers": True, "layer": 1}, "layer: expected layer or layers, not both; got 1"),
        ({"layers": [7]}, "layer: expected one of 0, 1, 2; got 7"),
    ],
)
def test_grids_that_cannot_be_are_refused(arguments, message):
    with pytest.raises(InvalidArgumentError, match=message):
        answer().plot(**arguments)


def test_pictures_of_nothing_are_refused():
    with pytest.raises(InvalidArgumentError, match="no attention weights"):
        answer(need_weights=False).plot(layers=True)
    with pytest.raises(InvalidArgumentError, match="expected one of 0, 1, 2; got 5"):
        answer().plot(layers=[5])


# --- what other libraries take


@pytest.fixture(params=["torch", "arrays"])
def has_torch(request, monkeypatch):
    """Whether there is a torch, which is a fake one."""
    fake = types.SimpleNamespace(from_numpy=lambda array: ("tensor", array))
    monkeypatch.setitem(sys.modules, "torch", fake)
    found = {"torch": fake} if request.param == "torch" else {}
    monkeypatch.setattr(exchange, "find_spec", found.get)
    return bool(found)


def arrays_in(attention, has_torch):
    if not has_torch:
        return attention
    assert all(kind == "tensor" for kind, _ in attention)
    return [array for _, array in attention]


def test_attentions_have_the_form_of_transformers():
    result = answer(need_weights={2: True, 0: Weights(dtype="float16")})
    first, second = result.attentions
    assert (first.dtype, first.shape) == (np.float16, (2, 2, 9, 9))
    assert second is result.attn_weights[2]


def test_bertviz_takes_one_sequence_without_padding(has_torch):
    arguments = answer().bertviz(batch=1)
    assert arguments.keys() == {"attention", "tokens"}
    assert arguments["tokens"] == SECOND
    attention = arrays_in(arguments["attention"], has_torch)
    assert len(attention) == 3
    np.testing.assert_array_equal(attention[1], weights_of(1, 6)[None])
    assert attention[1].flags.writeable  # torch warns of others


def test_bertviz_shows_the_requested_layers(has_torch):
    arguments = answer(need_weights={2: True, 1: True}).bertviz()
    assert arguments["include_layers"] == [1, 2]
    attention = arrays_in(arguments["attention"], has_torch)
    for layer in (1, 2):
        np.testing.assert_array_equal(attention[layer], weights_of(layer, 9)[None])


def test_bertviz_of_encoder_decoders(has_torch):
    arguments = answer(model="t5", decoder_token_ids=IDS).bertviz()
    assert arguments["encoder_tokens"] == TOKENS
    assert arguments["decoder_tokens"] == ["0", "1", "2"]
    shapes = {
        name: [array.shape[2:] for array in arrays_in(arguments[name], has_torch)]
        for name in ("encoder_attention", "decoder_attention", "cross_attention")
    }
    assert shapes == {
        "encoder_attention": [(9, 9)] * 3,
        "decoder_attention": [(3, 3)] * 3,
        "cross_attention": [(3, 9)] * 3,
    }
    alone = answer(model="t5").bertviz()
    assert alone.keys() == {"attention", "tokens"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"need_weights": False}, "no attention weights"),
        ({"need_weights": {0: True, 1: Weights(top_k=2)}}, "only some weights of layer 1"),
        ({"need_weights": {0: Weights(stage="scores")}}, "only some weights of layer 0"),
    ],
)
def test_some_weights_are_nothing_for_others(arguments, message):
    result = answer(**arguments)
    with pytest.raises(InvalidArgumentError, match=message):
        result.bertviz()
    with pytest.raises(InvalidArgumentError, match=message):
        _ = result.attentions


def test_stacks_that_do_not_fit_together_are_refused():
    result = answer(
        model="t5",
        decoder_token_ids=IDS,
        need_weights={("encoder", 0): True, ("decoder", 1): True},
    )
    with pytest.raises(InvalidArgumentError, match="weights of encoder and decoder: expected"):
        _ = result.attentions
    with pytest.raises(InvalidArgumentError, match="the same layers"):
        result.bertviz()
