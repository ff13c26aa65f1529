"""Forward: whole models over gRPC, against recorded ones, and what of them runs."""

import json
import shutil
from contextlib import contextmanager

import grpc
import numpy as np
import pytest
from golden import GOLDEN, WHOLE_WEIGHTS_ERRORS
from minilm import MINILM, needs_minilm

from polyhead.v1 import attention_pb2 as pb
from polyhead.v1 import attention_pb2_grpc
from polyhead.v1 import forward_pb2 as f
from polyhead.wire.tensors import to_array, to_tensor
from polyhead_models.checkpoint.checkpoint import Checkpoint, load_checkpoint
from polyhead_models.checkpoint.families import FAMILIES
from polyhead_models.export.whole import export_whole_model
from polyhead_models.graph import build_model
from polyhead_models.store import write_model
from polyhead_server.running import running_server

RECORDED = [
    file.parent.name
    for file in sorted(GOLDEN.glob("*/whole.npz"))
    if FAMILIES[Checkpoint.open(file.parent).model_type].whole
]
TEXT = "Tom is going to fish at the river bank."


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    """Every recorded whole model, one block, and MiniLM if it is installed."""
    repository = tmp_path_factory.mktemp("whole")
    for family in RECORDED:
        export_whole_model(Checkpoint.open(GOLDEN / family), family, repository)
    write_model(repository, "block", build_model(load_checkpoint(GOLDEN / "bert", 1)))
    if MINILM:
        export_whole_model(Checkpoint.open(MINILM), "minilm", repository)
    return repository


@pytest.fixture(scope="module")
def int8_stub(tmp_path_factory):
    """A stub of a server of the same models with int8 matrices."""
    repository = tmp_path_factory.mktemp("int8")
    checkpoints = {"bert": GOLDEN / "bert", **({"minilm": MINILM} if MINILM else {})}
    for name, folder in checkpoints.items():
        export_whole_model(Checkpoint.open(folder), name, repository, precision="int8")
    with serving_stub(repository) as stub:
        yield stub


@contextmanager
def serving_stub(repository, **settings):
    """Serve a repository, and yield a stub of its server."""
    options = [("grpc.max_receive_message_length", 1 << 28)]
    with (
        running_server(repository, threads=1, **settings) as server,
        grpc.insecure_channel(server.target, options=options) as channel,
    ):
        yield attention_pb2_grpc.AttentionServiceStub(channel)


@pytest.fixture(scope="module")
def stub(repository):
    with serving_stub(repository) as stub:
        yield stub


@pytest.fixture(scope="module")
def bert():
    return dict(np.load(GOLDEN / "bert" / "whole.npz"))


def layer(number, stack="", kind=""):
    return f.LayerRef(stack=stack, layer=number, kind=kind)


def weights_of(number, stack="", kind="", **selection):
    wanted = pb.AttnWeightsSelection(**selection)
    return f.LayerWeights(layer=layer(number, stack, kind), selection=wanted)


def ids(*rows):
    return to_tensor(np.array(rows, np.int64))


def bert_request(recorded, **more):
    """Ask the small BERT about the three recorded sequences."""
    return f.ForwardRequest(
        model="bert",
        token_ids=to_tensor(recorded["input_ids"].astype(np.int64)),
        lengths=recorded["attention_mask"].sum(-1).tolist(),
        **more,
    )


def assert_close(actual, expected, lengths, key_lengths=None, max_error=3e-5):
    """Compare the valid parts of arrays whose axes after the batch end with rows and columns."""
    scale = np.abs(expected).max() if key_lengths is None else 1.0
    for index, length in enumerate(lengths):
        columns = slice(None) if key_lengths is None else slice(int(key_lengths[index]))
        valid = (index, ..., slice(int(length)), columns)
        assert np.abs(actual[valid] - expected[valid]).max() < max_error * scale


def refused(stub, request):
    """Return the code and the message with which a request ends."""
    with pytest.raises(grpc.RpcError) as caught:
        stub.Forward(request)
    return caught.value.code(), caught.value.details()


# --- against recordings


def recorded_input(spec, recorded, is_pair):
    """Return the name and the array of a stack's recorded input; None if it has none."""
    name = "input_ids" if spec.input == "token_ids" else spec.input
    if is_pair and spec.name == "decoder":
        name = "decoder_input_ids"
    array = recorded.get(name)
    if array is None:
        return None
    field = "decoder_token_ids" if name == "decoder_input_ids" else spec.input
    return field, array.astype(np.int64) if spec.input == "token_ids" else array


def request_of(name, stacks, recorded, is_pair):
    """Ask for everything that was recorded; return the request and each stack's lengths."""
    request, lengths = f.ForwardRequest(model=name), {}
    for spec in stacks:
        found = recorded_input(spec, recorded, is_pair)
        if found is None:
            continue
        field, array = found
        getattr(request, field).CopyFrom(to_tensor(array))
        seq_len = array.shape[1] if spec.input == "token_ids" else spec.max_length
        if not seq_len:  # images may have any size
            seq_len = recorded["last_hidden_state"].shape[1]
        lengths[spec.name] = np.full(len(array), seq_len)
        if field == "token_ids" and "attention_mask" in recorded:
            lengths[spec.name] = recorded["attention_mask"].sum(-1)
            request.lengths.extend(lengths[spec.name].tolist())
        for number, spec_layer in enumerate(spec.layers):
            request.hidden_states_wanted.append(layer(number, spec.name))
            request.attn_weights.append(weights_of(number, spec.name))
            if spec_layer.HasField("cross_attention"):
                request.attn_weights.append(weights_of(number, spec.name, "cross"))
    return request, lengths


@pytest.mark.parametrize("family", RECORDED)
def test_as_recorded(stub, family):
    recorded = dict(np.load(GOLDEN / family / "whole.npz"))
    stacks = stub.GetModel(pb.GetModelRequest(name=family)).model.whole.stacks
    is_pair = any(spec.layers[0].HasField("cross_attention") for spec in stacks)
    has_towers = len(stacks) > 1 and not is_pair
    for together in [[spec] for spec in stacks] if has_towers else [stacks]:
        request, lengths = request_of(family, together, recorded, is_pair)
        response = stub.Forward(request)
        tower, first = f"{together[0].name}_" if has_towers else "", next(iter(lengths))
        for states in response.hidden_states:
            assert bool(states.layer.stack) == (len(stacks) > 1)
            prefix = f"{states.layer.stack}_" if is_pair else tower
            expected = recorded[f"{prefix}hidden_states.{states.layer.layer}"]
            own_lengths = lengths[states.layer.stack or first]
            assert_close(to_array(states.hidden_states), expected, own_lengths)
        for weights in response.attn_weights:
            assert bool(weights.layer.stack) == (len(stacks) > 1)
            name, number = weights.layer.stack or first, weights.layer.layer
            key, key_lengths = f"{tower}attentions.{number}", lengths[name]
            if weights.layer.kind == "cross":
                key, key_lengths = f"cross_attentions.{number}", lengths["encoder"]
            elif is_pair:
                key = f"{name}_attentions.{number}"
            actual = to_array(weights.attn_weights)
            max_error = WHOLE_WEIGHTS_ERRORS.get(family, 1e-5)
            assert_close(actual, recorded[key], lengths[name], key_lengths, max_error)
        expected = recorded[f"{tower}last_hidden_state"]
        assert_close(to_array(response.output), expected, lengths[[*lengths][-1]])


@pytest.mark.parametrize("family", ["dinov2", "dinov2_with_registers"])
def test_images_of_any_size(stub, family):
    recorded = dict(np.load(GOLDEN / family / "whole.npz"))
    (spec,) = stub.GetModel(pb.GetModelRequest(name=family)).model.whole.stacks
    assert ([*spec.input_shape], spec.max_length) == ([3, 0, 0], 0)
    pixels = recorded["other_pixel_values"]
    response = stub.Forward(f.ForwardRequest(model=family, pixel_values=to_tensor(pixels)))
    expected = recorded["other_last_hidden_state"]
    assert_close(to_array(response.output), expected, [expected.shape[1]])
    small = to_tensor(pixels[:, :, :6])
    code, message = refused(stub, f.ForwardRequest(model=family, pixel_values=small))
    assert code == grpc.StatusCode.INVALID_ARGUMENT
    assert "expected (batch_size, 3, any, any) with at least a patch of 7 x 7; got [1, 3, 6," in (
        message
    )


@needs_minilm
def test_texts(stub):
    recorded = np.load(GOLDEN / "minilm_whole.npz")
    response = stub.Forward(
        f.ForwardRequest(
            model="minilm",
            texts=[str(text) for text in recorded["sentences"]],
            hidden_states_wanted=[layer(number) for number in (0, 3, 6)],
            attn_weights=[weights_of(number) for number in (0, 3)],
        )
    )
    lengths = recorded["attention_mask"].sum(-1)
    assert [*response.lengths] == lengths.tolist()
    for tokens, expected, length in zip(response.tokens, recorded["tokens"], lengths, strict=True):
        assert [token.text for token in tokens.tokens] == expected[:length].tolist()
    for states in response.hidden_states:
        expected = recorded[f"hidden_states.{states.layer.layer}"]
        assert_close(to_array(states.hidden_states), expected, lengths)
    for weights in response.attn_weights:
        expected = recorded[f"attentions.{weights.layer.layer}"]
        assert_close(to_array(weights.attn_weights), expected, lengths, lengths, 1e-5)


@needs_minilm
def test_tokens_say_where_they_are_in_the_text(stub):
    response = stub.Forward(f.ForwardRequest(model="minilm", texts=[TEXT]))
    tokens = response.tokens[0].tokens
    assert [TEXT[token.start : token.end].lower() for token in tokens[1:-1]] == [
        token.text for token in tokens[1:-1]
    ]
    assert (tokens[0].start, tokens[0].end) == (0, 0)


@needs_minilm
def test_too_many_words(stub):
    wanted = f.LayerWeights(layer=layer(0), query_words=map(str, range(257)))
    code, message = refused(
        stub, f.ForwardRequest(model="minilm", texts=[TEXT], attn_weights=[wanted])
    )
    assert code == grpc.StatusCode.INVALID_ARGUMENT
    assert "attn_weights[0].query_words: expected at most 256 words; got 257" in message


@needs_minilm
def test_rows_of_words(stub):
    texts = ["the bank of the river", "money in the Bank, that bank"]
    wanted = f.LayerWeights(layer=layer(0), query_words=["river"])
    everything = stub.Forward(
        f.ForwardRequest(model="minilm", texts=texts[:1], attn_weights=[weights_of(0)])
    )
    chosen = stub.Forward(f.ForwardRequest(model="minilm", texts=texts[:1], attn_weights=[wanted]))
    row = [token.text for token in everything.tokens[0].tokens].index("river")
    np.testing.assert_allclose(
        to_array(chosen.attn_weights[0].attn_weights)[0, :, 0],
        to_array(everything.attn_weights[0].attn_weights)[0, :, row],
        atol=1e-6,
    )
    wanted = f.LayerWeights(layer=layer(0), query_words=["bank"])
    both = stub.Forward(f.ForwardRequest(model="minilm", texts=texts, attn_weights=[wanted]))
    shape = to_array(both.attn_weights[0].attn_weights).shape
    assert shape[2] == 1  # a word is matched as it is written, so once in each text
    wanted.query_words[:] = ["the"]
    code, message = refused(
        stub, f.ForwardRequest(model="minilm", texts=texts, attn_weights=[wanted])
    )
    assert code == grpc.StatusCode.INVALID_ARGUMENT
    assert "more often in some texts" in message
    wanted.query_words[:] = ["banks"]
    assert (
        "'banks' is not a word of text 0; spell it as in the text, or select its query by its"
        in refused(stub, f.ForwardRequest(model="minilm", texts=texts, attn_weights=[wanted]))[1]
    )


# --- int8


def assert_int8_is_near(stub, int8_stub, request):
    """Compare attention weights, and the outputs of valid tokens, with those of float32."""
    exact, rough = stub.Forward(request), int8_stub.Forward(request)
    for expected, actual in zip(exact.attn_weights, rough.attn_weights, strict=True):
        difference = to_array(actual.attn_weights) - to_array(expected.attn_weights)
        assert 0 < np.abs(difference).max() < 0.1
    for index, length in enumerate(exact.lengths):
        x, y = (to_array(each.output)[index, :length] for each in (exact, rough))
        cosines = (x * y).sum(-1) / np.linalg.norm(x, axis=-1) / np.linalg.norm(y, axis=-1)
        assert cosines.min() > 0.99
        np.testing.assert_array_less(cosines, 1 - 1e-7)


def test_int8_matrices_move_weights_within_the_bound(stub, int8_stub, bert):
    request = bert_request(bert, attn_weights=[weights_of(number) for number in range(2)])
    assert_int8_is_near(stub, int8_stub, request)


@needs_minilm
def test_int8_matrices_of_a_real_model_keep_its_attention(stub, int8_stub):
    texts = [TEXT, "She opened an account at the bank, for the interest was high.", "Hello!"]
    wanted = [weights_of(number) for number in range(6)]
    request = f.ForwardRequest(model="minilm", texts=texts, attn_weights=wanted)
    assert_int8_is_near(stub, int8_stub, request)


def test_an_int8_sequence_does_not_depend_on_its_company(int8_stub, bert):
    together = int8_stub.Forward(bert_request(bert))
    for index, length in enumerate(together.lengths):
        token_ids = ids(bert["input_ids"][index, :length])
        alone = int8_stub.Forward(f.ForwardRequest(model="bert", token_ids=token_ids))
        expected = to_array(together.output)[index, :length]
        np.testing.assert_allclose(to_array(alone.output)[0], expected, atol=1e-5)


def test_the_description_of_an_int8_model_has_its_precision_and_error(int8_stub):
    model = int8_stub.GetModel(pb.GetModelRequest(name="bert")).model
    layers = model.whole.stacks[0].layers
    assert [*model.whole.int8] == ["projections", "up", "down"]
    assert 0 < model.whole.weights_error <= 0.1
    assert {layer.self_attention.precision for layer in layers} == {"int8"}
    assert 0 < model.provenance.precision_error < 0.1


# --- what is computed


def test_sequences_do_not_depend_on_their_company(stub, bert):
    together = stub.Forward(bert_request(bert, attn_weights=[weights_of(1)]))
    output, weights = to_array(together.output), to_array(together.attn_weights[0].attn_weights)
    for index, length in enumerate(together.lengths):
        token_ids = ids(bert["input_ids"][index, :length])
        request = f.ForwardRequest(model="bert", token_ids=token_ids, attn_weights=[weights_of(1)])
        alone = stub.Forward(request)
        np.testing.assert_allclose(to_array(alone.output)[0], output[index, :length], atol=1e-6)
        np.testing.assert_allclose(
            to_array(alone.attn_weights[0].attn_weights)[0],
            weights[index, :, :length, :length],
            atol=1e-6,
        )
        assert not output[index, length:].any()
        assert not weights[index, :, length:].any()
        assert not weights[index, :, :, length:].any()


def test_selections_are_parts_of_all_weights(stub, bert):
    selections = {
        "heads": {"heads": [2, 0]},
        "queries": {"queries": [4, 1, 8]},
        "average": {"average_heads": True},
        "top_k": {"top_k": 3},
        "masked": {"stage": pb.ATTN_WEIGHTS_STAGE_MASKED},
    }
    wanted = [weights_of(1), *(weights_of(1, **each) for each in selections.values())]
    response = stub.Forward(bert_request(bert, attn_weights=wanted))
    arrays = [to_array(each.attn_weights) for each in response.attn_weights]
    everything, by_name = arrays[0], dict(zip(selections, arrays[1:], strict=True))
    np.testing.assert_allclose(by_name["heads"], everything[:, [2, 0]], atol=1e-6)
    np.testing.assert_allclose(by_name["queries"], everything[:, :, [4, 1, 8]], atol=1e-6)
    mean = everything.mean(1, keepdims=True)
    np.testing.assert_allclose(by_name["average"], mean, atol=1e-6)
    largest = -np.sort(-everything, axis=-1)[..., :3]
    np.testing.assert_allclose(by_name["top_k"], largest, atol=1e-6)
    top_keys = to_array(response.attn_weights[4].top_keys)
    taken = np.take_along_axis(everything, top_keys.astype(np.int64), -1)
    np.testing.assert_allclose(taken, by_name["top_k"], atol=1e-6)
    length = response.lengths[1]
    assert np.isneginf(by_name["masked"][1, :, :, length:]).all()
    assert np.isfinite(by_name["masked"][1, :, :length, :length]).all()


def test_nothing_that_is_not_needed_runs(stub, bert):
    def layers_run(**wanted):
        [run] = stub.Forward(bert_request(bert, **wanted)).layers_run
        return run.first_layer, run.num_layers

    assert layers_run() == (0, 2)
    assert layers_run(omit_output=True, hidden_states_wanted=[layer(0)]) == (0, 0)
    assert layers_run(omit_output=True, hidden_states_wanted=[layer(1)]) == (0, 1)
    assert layers_run(omit_output=True, attn_weights=[weights_of(0)]) == (0, 1)
    assert layers_run(last_layer=0) == (0, 1)


def test_the_last_layer_is_the_output(stub, bert):
    response = stub.Forward(bert_request(bert, last_layer=0, hidden_states_wanted=[layer(1)]))
    states = to_array(response.hidden_states[0].hidden_states)
    np.testing.assert_array_equal(to_array(response.output), states)


def test_hidden_states_enter_a_layer(stub, bert):
    whole = stub.Forward(bert_request(bert, hidden_states_wanted=[layer(1)]))
    request = f.ForwardRequest(
        model="bert",
        hidden_states=whole.hidden_states[0].hidden_states,
        first_layer=layer(1),
        lengths=whole.lengths,
        attn_weights=[weights_of(1)],
    )
    rest = stub.Forward(request)
    np.testing.assert_allclose(to_array(rest.output), to_array(whole.output), atol=1e-6)
    [run] = rest.layers_run
    assert (run.first_layer, run.num_layers) == (1, 1)
    request.attn_weights[0].layer.layer = 0
    assert (
        "attn_weights[0].layer.layer: expected a layer from 1 to 1; got 0"
        in refused(stub, request)[1]
    )


def test_dtypes(stub, bert):
    response = stub.Forward(
        bert_request(
            bert,
            output_dtype=pb.DATA_TYPE_FLOAT16,
            attn_weights=[weights_of(0, dtype=pb.DATA_TYPE_BFLOAT16)],
        )
    )
    assert response.output.dtype == pb.DATA_TYPE_FLOAT16
    assert response.attn_weights[0].attn_weights.dtype == pb.DATA_TYPE_BFLOAT16


# --- the blocks of a whole model


def test_attend_runs_a_layer_of_a_whole_model(stub):
    query = to_tensor(np.random.default_rng(0).standard_normal((2, 5, 64), np.float32))
    wanted = pb.AttnWeightsSelection()
    of_block = stub.Attend(pb.AttendRequest(model="block", query=query, attn_weights=wanted))
    request = pb.AttendRequest(model="bert", query=query, attn_weights=wanted, layer=layer(1))
    for _ in range(3):  # the third runs on arrays that stay in place
        of_whole = stub.Attend(request)
        assert of_whole.output == of_block.output
        assert of_whole.attn_weights == of_block.attn_weights
    [rows] = stub.AttendRows(pb.AttendRowsRequest(call=request))
    np.testing.assert_allclose(to_array(rows.block.output), to_array(of_block.output), atol=1e-6)


@pytest.mark.parametrize(
    ("model", "named", "expected"),
    [
        ("bert", None, "layer: is required, because model 'bert' is a whole model"),
        ("bert", layer(2), "layer: expected a layer of encoder 0 to 1; got encoder 2"),
        ("bert", layer(0, "decoder"), "got decoder 0"),
        ("bert", layer(0, kind="cross"), "(cross-attention)"),
        ("block", layer(0), "layer: is set, but model 'block' is one block; leave it out"),
    ],
)
def test_layers_of_attend(stub, model, named, expected):
    query = to_tensor(np.zeros((1, 2, 64), np.float32))
    with pytest.raises(grpc.RpcError) as caught:
        stub.Attend(pb.AttendRequest(model=model, query=query, layer=named))
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert expected in caught.value.details()


def test_models_are_described(stub):
    [described] = [
        model for model in stub.ListModels(pb.ListModelsRequest()).models if model.name == "bert"
    ]
    assert described.state == pb.MODEL_STATE_READY
    assert not described.HasField("spec")
    [stack] = described.whole.stacks
    assert (stack.name, stack.input, stack.hidden_size, stack.vocab_size) == (
        "encoder",
        "token_ids",
        64,
        40,
    )
    assert stack.max_length == 64
    assert [each.self_attention.num_heads for each in stack.layers] == [4, 4]
    assert described.provenance.family == "bert"


# --- bad input


@pytest.mark.parametrize(
    ("request_fields", "expected"),
    [
        ({}, "input: expected one of texts, token_ids"),
        ({"token_ids": ids([1]), "texts": ["a"]}, "got texts and token_ids"),
        ({"texts": ["a"]}, "NO_TOKENIZER"),
        (
            {"pixel_values": to_tensor(np.zeros((1, 3, 2, 2), np.float32))},
            "the model takes token_ids",
        ),
        ({"token_ids": ids([1, 40])}, "token_ids[0, 1]: expected token ids from 0 to 39; got 40"),
        ({"token_ids": ids([-1])}, "got -1"),
        ({"token_ids": to_tensor(np.ones(3, np.int64))}, "expected (batch_size, seq_len); got [3]"),
        ({"token_ids": to_tensor(np.ones((1, 3), np.float32))}, "expected INT32 or INT64"),
        ({"token_ids": ids([1] * 65)}, "a sequence of 65 tokens, and the model takes 64"),
        ({"token_ids": ids([1, 2]), "lengths": [3]}, "lengths[0]: expected lengths from 1 to 2"),
        ({"token_ids": ids([1, 2]), "lengths": [0]}, "expected lengths from 1 to 2; got 0"),
        ({"token_ids": ids([1, 2]), "lengths": [1, 1]}, "expected 1 entries, one for each"),
        ({"token_ids": ids([1]), "decoder_token_ids": ids([1])}, "the model has no decoder"),
        ({"token_ids": ids([1]), "first_layer": layer(0)}, "first_layer: is set without hidden_s"),
        ({"token_ids": ids([1]), "memory_lengths": [1]}, "memory_lengths: is set without memory"),
        ({"texts": ["a"], "lengths": [1]}, "lengths: is set without token_ids or hidden_states"),
        (
            {"token_ids": ids([1]), "last_layer": 2},
            "last_layer: expected a layer from 0 to 1; got 2",
        ),
        (
            {"token_ids": ids([1]), "last_layer": 0, "attn_weights": [weights_of(1)]},
            "last_layer: is 0, but layer 1 is needed; raise it, or leave it out",
        ),
        ({"token_ids": ids([1]), "attn_weights": [weights_of(2)]}, "a layer from 0 to 1; got 2"),
        (
            {"token_ids": ids([1]), "attn_weights": [weights_of(0, "decoder")]},
            "attn_weights[0].layer.stack: expected encoder, which the model has; got 'd",
        ),
        (
            {"token_ids": ids([1]), "attn_weights": [weights_of(0, kind="cross")]},
            "kind: expected self; got 'cross'",
        ),
        (
            {"token_ids": ids([1]), "attn_weights": [weights_of(0, heads=[4])]},
            "attn_weights[0].selection.heads[0]",
        ),
        ({"token_ids": ids([1]), "hidden_states_wanted": [layer(3)]}, "a layer from 0 to 2; got 3"),
        (
            {"hidden_states": to_tensor(np.zeros((1, 2, 63), np.float32))},
            "expected (batch_size, seq_len, hidden_size=64); got [1, 2, 63]",
        ),
        (
            {"hidden_states": to_tensor(np.full((1, 2, 64), np.nan, np.float32))},
            "hidden_states: holds NaN or infinity",
        ),
        (
            {
                "hidden_states": to_tensor(np.zeros((1, 2, 64), np.float32)),
                "first_layer": layer(3),
            },
            "first_layer.layer: expected a layer from 0 to 2; got 3",
        ),
        (
            {"token_ids": ids([1]), "memory": to_tensor(np.zeros((1, 2, 64), np.float32))},
            "memory: is set, but no decoder runs",
        ),
    ],
)
def test_refusals(stub, request_fields, expected):
    with pytest.raises(grpc.RpcError) as caught:
        stub.Forward(f.ForwardRequest(model="bert", **request_fields))
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert expected in caught.value.details() or expected in str(caught.value.trailing_metadata())


@pytest.mark.parametrize(
    ("model", "request_fields", "expected"),
    [
        (
            "bert",
            {"hidden_states_wanted": [layer(1)], "all_hidden_states": True},
            "hidden_states_wanted: names layers, and all_hidden_states asks for all",
        ),
        (
            "bert",
            {"hidden_states_wanted": [layer(1, kind="cross")]},
            "hidden_states_wanted[0].kind: is for attention, and hidden states have none",
        ),
        (
            "t5",
            {"attn_weights": [weights_of(0, kind="cross")]},
            "the decoder does not run, because the request has no decoder_token_ids; send it, or",
        ),
        (
            "t5",
            {"hidden_states_wanted": [layer(0, "vision")]},
            "stack: expected encoder or decoder, which the model has; got 'vision'",
        ),
    ],
)
def test_contradictions_are_refused(stub, model, request_fields, expected):
    request = f.ForwardRequest(model=model, token_ids=ids([3, 4]), **request_fields)
    code, message = refused(stub, request)
    assert code == grpc.StatusCode.INVALID_ARGUMENT
    assert expected in message


def test_other_models_are_refused(stub):
    code, message = refused(stub, f.ForwardRequest(model="block", token_ids=ids([1])))
    assert code == grpc.StatusCode.FAILED_PRECONDITION
    assert "not a whole model: call Attend" in message
    assert refused(stub, f.ForwardRequest(model="none"))[0] == grpc.StatusCode.NOT_FOUND


@needs_minilm
def test_long_and_empty_texts(stub):
    long = "river " * 600
    request = f.ForwardRequest(model="minilm", texts=[long], omit_output=True)
    request.attn_weights.append(weights_of(0, queries=[0], top_k=1))
    code, message = refused(stub, request)
    assert code == grpc.StatusCode.INVALID_ARGUMENT
    assert "texts[0]: has 602 tokens, and the model takes 512" in message
    request.truncate = True
    response = stub.Forward(request)
    assert [*response.lengths] == [512]
    assert response.tokens[0].tokens[-1].text == "[SEP]"
    request.texts[:] = ["river", "river" * 60_000]  # one word, which is one token
    code, message = refused(stub, request)
    assert code == grpc.StatusCode.INVALID_ARGUMENT
    assert "texts[1]: has 300000 characters; expected at most 250000" in message
    assert "--max-text-characters" in message
    request.texts[:] = ["a", "  "]
    assert "texts[1]: is empty" in refused(stub, request)[1]


def test_weights_that_would_not_fit_are_refused(tmp_path):
    export_whole_model(Checkpoint.open(GOLDEN / "bert"), "bert", tmp_path)
    with serving_stub(tmp_path, max_response_bytes=10_000) as stub:
        request = f.ForwardRequest(model="bert", token_ids=ids([1] * 60))
        request.omit_output = True
        request.attn_weights.append(weights_of(1))
        code, message = refused(stub, request)
        assert code == grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "ask for fewer layers, heads or queries, for top_k" in message
        request.attn_weights[0].selection.top_k = 1
        request.attn_weights[0].selection.heads[:] = [0]
        assert to_array(stub.Forward(request).attn_weights[0].attn_weights).shape[-1] == 1


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (lambda folder: (folder / "model.onnx.data").unlink(), "model.onnx.data"),
        (
            lambda folder: (folder / "tokenizer.json").write_text("{"),
            "its 'tokenizer.json' is damaged",
        ),
    ],
)
def test_damaged_models_do_not_keep_others_from_serving(tmp_path, damage, expected):
    checkpoint = shutil.copytree(GOLDEN / "bert", tmp_path / "bert")
    (checkpoint / "tokenizer.json").write_text(
        json.dumps({"version": "1.0", "model": {"type": "BPE", "vocab": {"a": 0}, "merges": []}})
    )
    repository = tmp_path / "models"
    for name in ("good", "bad"):
        export_whole_model(Checkpoint.open(checkpoint), name, repository)
    damage(repository / "bad" / "1")
    with serving_stub(repository) as stub:
        stub.Forward(f.ForwardRequest(model="good", token_ids=ids([1, 2])))
        code, message = refused(stub, f.ForwardRequest(model="bad", token_ids=ids([1])))
    assert code == grpc.StatusCode.FAILED_PRECONDITION
    assert expected in message


# --- long requests


def long_request():
    """A request that takes seconds."""
    token_ids = np.random.default_rng(0).integers(1000, 20_000, (16, 512))
    return f.ForwardRequest(model="minilm", token_ids=to_tensor(token_ids), omit_output=False)


@needs_minilm
def test_small_calls_have_their_turn_during_a_long_one(stub):
    long = stub.Forward.future(long_request())
    query = to_tensor(np.zeros((1, 60, 64), np.float32))  # too large to run on the event loop
    for _ in range(3):
        stub.Attend(pb.AttendRequest(model="block", query=query))
        stub.Forward(f.ForwardRequest(model="bert", token_ids=ids([1, 2, 3])))
    assert not long.done()
    assert to_array(long.result(timeout=60).output).shape == (16, 512, 384)


def test_small_calls_have_their_turn_among_many_selections_of_one_layer(stub):
    many = f.ForwardRequest(model="bert", token_ids=ids(*[[1] * 64] * 16), omit_output=True)
    many.attn_weights.extend([weights_of(0, top_k=1, average_heads=True)] * 300)
    long = stub.Forward.future(many)
    for _ in range(3):
        stub.Forward(f.ForwardRequest(model="bert", token_ids=ids([1, 2, 3])))
    assert not long.done()
    assert len(long.result(timeout=60).attn_weights) == 300


@needs_minilm
def test_a_long_request_ends_with_its_deadline(stub):
    with pytest.raises(grpc.RpcError) as caught:
        stub.Forward(long_request(), timeout=0.3)
    assert caught.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    response = stub.Forward(f.ForwardRequest(model="bert", token_ids=ids([1, 2, 3])))
    assert response.execution.queue_ms < 1000


# --- all layers, without their number


def test_all_layers_are_those_that_run(stub, bert):
    selection = pb.AttnWeightsSelection(heads=[2])
    request = bert_request(
        bert, attn_weights=[f.LayerWeights(selection=selection)], all_hidden_states=True
    )
    response = stub.Forward(request)
    assert [w.layer for w in response.attn_weights] == [
        f.LayerRef(layer=number, kind="self") for number in (0, 1)
    ]
    assert [s.layer for s in response.hidden_states] == [layer(number) for number in (0, 1, 2)]
    named = bert_request(
        bert,
        attn_weights=[weights_of(number, heads=[2]) for number in (0, 1)],
        hidden_states_wanted=[layer(number) for number in (0, 1, 2)],
    )
    named = stub.Forward(named)
    assert [w.attn_weights for w in named.attn_weights] == [
        w.attn_weights for w in response.attn_weights
    ]
    assert [*named.hidden_states] == [*response.hidden_states]
    request.last_layer = 0
    response = stub.Forward(request)
    assert [w.layer.layer for w in response.attn_weights] == [0]
    assert [s.layer.layer for s in response.hidden_states] == [0, 1]
    request.attn_weights[0].selection.heads[:] = [9]
    assert "attn_weights[0].selection.heads[0]" in refused(stub, request)[1]


def test_hidden_states_come_in_the_order_of_the_request(stub, bert):
    request = bert_request(bert, hidden_states_wanted=[layer(2), layer(0)], omit_output=True)
    response = stub.Forward(request)
    assert [s.layer.layer for s in response.hidden_states] == [2, 0]
    expected = bert["hidden_states.2"]
    lengths = bert["attention_mask"].sum(-1)
    assert_close(to_array(response.hidden_states[0].hidden_states), expected, lengths)


@needs_minilm
def test_rows_of_words_say_which_queries_they_are(stub):
    wanted = f.LayerWeights(layer=layer(0), query_words=["bank"])
    wanted.selection.queries.append(0)
    texts = ["the bank", "Tom is at the river bank"]
    response = stub.Forward(f.ForwardRequest(model="minilm", texts=texts, attn_weights=[wanted]))
    tokens = [[token.text for token in text.tokens] for text in response.tokens]
    expected = [[0, own.index("bank")] for own in tokens]
    assert to_array(response.attn_weights[0].queries).tolist() == expected
