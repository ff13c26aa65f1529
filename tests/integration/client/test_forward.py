"""forward of both clients: whole models that are served, and a fake server that fails."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest
from golden import GOLDEN
from minilm import MINILM, needs_minilm

import polyhead
from polyhead import Weights
from polyhead.results.sequence import sequence_of
from polyhead_models.checkpoint.checkpoint import Checkpoint
from polyhead_models.checkpoint.families import FAMILIES
from polyhead_models.export.whole import export_whole_model
from polyhead_server.running import running_server

FAMILIES_HERE = [
    family
    for family in ("bert", "gpt2", "llama", "t5", "bart", "vit")
    if FAMILIES[Checkpoint.open(GOLDEN / family).model_type].whole
]
TEXT = "Tom is going to fish at the river bank."
TOKENS = ["[CLS]", "tom", "is", "going", "to", "fish", "at", "the", "river", "bank", ".", "[SEP]"]


@pytest.fixture(scope="module")
def target(tmp_path_factory):
    """The address of a server of small whole models, and MiniLM if it is installed."""
    repository = tmp_path_factory.mktemp("whole")
    for family in FAMILIES_HERE:
        export_whole_model(Checkpoint.open(GOLDEN / family), family, repository)
    bert = Checkpoint.open(GOLDEN / "bert")
    export_whole_model(bert, "bert-int8", repository, precision="int8")
    if MINILM:
        export_whole_model(Checkpoint.open(MINILM), "minilm", repository)
    with running_server(repository, threads=1) as server:
        yield server.target


@pytest.fixture(scope="module")
def client(target):
    with polyhead.Client(target, timeout=60) as client:
        yield client


@pytest.fixture(scope="module")
def recorded():
    return dict(np.load(GOLDEN / "bert" / "whole.npz"))


def assert_close(actual, expected, lengths, max_error):
    for index, length in enumerate(lengths):
        actual_rows, rows = actual[index, ..., :length, :], expected[index, ..., :length, :]
        np.testing.assert_allclose(
            actual_rows[..., : rows.shape[-1]], rows, rtol=0, atol=max_error * np.abs(rows).max()
        )


def run_async(target, **arguments):
    async def run():
        async with polyhead.AsyncClient(target, timeout=60) as client:
            return await client.forward(**arguments)

    return asyncio.run(run())


def recorded_name(array, layer):
    """Name a layer's array as the recordings do."""
    stack, number = layer if isinstance(layer, tuple) else ("", layer)
    return f"{stack}_{array}.{number}" if stack else f"{array}.{number}"


@pytest.mark.parametrize("family", FAMILIES_HERE)
def test_all_layers_as_recorded(client, family):
    recorded = dict(np.load(GOLDEN / family / "whole.npz"))
    inputs = {"pixel_values": recorded.get("pixel_values"), "token_ids": recorded.get("input_ids")}
    inputs["decoder_token_ids"] = recorded.get("decoder_input_ids")
    if "attention_mask" in recorded:
        inputs["lengths"] = recorded["attention_mask"].sum(-1)
    result = client.forward(**inputs, model=family, need_weights=True, need_hidden_states=True)
    for layer in result.attn_weights:
        expected = recorded[recorded_name("attentions", layer)]
        for batch in range(len(expected)):
            weights = sequence_of(result, layer, batch).result.attn_weights[0]
            _, queries, keys = weights.shape
            np.testing.assert_allclose(weights, expected[batch, :, :queries, :keys], atol=3e-5)
    num_arrays = sum("attentions." in name for name in recorded)
    assert len(result.attn_weights) == num_arrays
    assert len(result.hidden_states) == sum("hidden_states." in name for name in recorded)
    for layer, states in result.hidden_states.items():
        if layer not in result.attn_weights:
            continue  # what leaves the last layer: recorded after the final norm
        has_own_lengths = inputs["decoder_token_ids"] is None or layer[0] == "encoder"
        lengths = result.lengths if has_own_lengths else result.decoder_lengths
        assert_close(states, recorded[recorded_name("hidden_states", layer)], lengths, 3e-5)


def test_recorded_states_and_weights(client, target, recorded):
    lengths = recorded["attention_mask"].sum(-1)
    arguments = {
        "token_ids": recorded["input_ids"],
        "lengths": lengths,
        "model": "bert",
        "need_weights": True,
        "need_hidden_states": True,
    }
    result = client.forward(**arguments)
    assert list(result.attn_weights) == [0, 1]
    assert list(result.hidden_states) == [0, 1, 2]
    assert_close(result.output, recorded["last_hidden_state"], lengths, 3e-5)
    for layer, states in result.hidden_states.items():
        assert_close(states, recorded[f"hidden_states.{layer}"], lengths, 3e-5)
    for layer, weights in enumerate(result.attentions):
        for index, length in enumerate(lengths):
            expected = recorded[f"attentions.{layer}"][index, :, :length, :length]
            np.testing.assert_allclose(weights[index, :, :length, :length], expected, atol=1e-5)
    assert result.layers_run == {"encoder": range(2)}
    assert result.execution.model == "bert"
    other = run_async(target, **arguments)
    np.testing.assert_array_equal(other.output, result.output)
    np.testing.assert_array_equal(other.attn_weights[1], result.attn_weights[1])


def test_going_on_from_hidden_states(client, recorded):
    lengths = recorded["attention_mask"].sum(-1)
    whole = client.forward(
        token_ids=recorded["input_ids"], lengths=lengths, model="bert", need_hidden_states=1
    )
    rest = client.forward(
        hidden_states=whole.hidden_states[1], lengths=lengths, first_layer=1, model="bert"
    )
    assert rest.layers_run == {"encoder": range(1, 2)}
    assert_close(rest.output, whole.output, lengths, 1e-5)
    changed = whole.hidden_states[1].copy()
    changed[0, 0] = 0
    patched = client.forward(hidden_states=changed, lengths=lengths, first_layer=1, model="bert")
    assert np.abs(patched.output[0] - whole.output[0]).max() > 0.1
    assert_close(patched.output[1:], whole.output[1:], lengths[1:], 1e-5)


def test_only_requested_results_are_returned(client, recorded):
    first = client.forward(
        token_ids=recorded["input_ids"][:1], model="bert", need_weights={0: True}, need_output=False
    )
    assert first.output is None
    assert first.layers_run == {"encoder": range(1)}
    cut = client.forward(token_ids=recorded["input_ids"][:1], model="bert", last_layer=0)
    assert cut.layers_run == {"encoder": range(1)}
    half = client.forward(token_ids=[[1, 2]], model="bert", output_dtype="float16", request_id="me")
    assert half.output.dtype == np.float16
    assert half.request_id == "me"


def test_attend_takes_a_layer_of_a_whole_model(client, recorded):
    whole = client.forward(
        token_ids=recorded["input_ids"][:1],
        model="bert",
        need_weights={1: True},
        need_hidden_states=1,
    )
    query = whole.hidden_states[1]
    wanted = {"model": "bert", "layer": 1, "need_weights": True}
    result = client.attend(query, **wanted)
    np.testing.assert_allclose(result.attn_weights, whole.attn_weights[1], atol=1e-5)
    [many] = client.attend_many([query], **wanted)
    np.testing.assert_array_equal(many.attn_weights, result.attn_weights)
    with client.attend_rows(query, **wanted, rows_per_block=2) as blocks:
        rows = [block.attn_weights for block in blocks]
    np.testing.assert_allclose(np.concatenate(rows, axis=2), result.attn_weights, atol=1e-6)
    with pytest.raises(polyhead.InvalidArgumentError, match="layer"):
        client.attend(query, model="bert")


def test_models_describe_their_stacks(client):
    whole = client.model("bert").whole
    [stack] = whole.stacks
    assert (stack.name, stack.input, stack.num_layers) == ("encoder", "token_ids", 2)
    assert not whole.has_tokenizer
    assert (whole.int8, whole.weights_error) == ((), 0.0)
    assert stack.layers[0].self_attention.num_heads == 4
    assert stack.layers[0].cross_attention is None
    assert client.model("bert").spec is None


def test_the_description_names_the_int8_matrices(client):
    info = client.model("bert-int8")
    assert info.whole.int8 == ("projections", "up", "down")
    assert 0 < info.whole.weights_error <= 0.1
    assert 0 < info.provenance.precision_error < 0.1


def test_errors_of_the_server(client):
    with pytest.raises(
        polyhead.InvalidArgumentError, match="exported without a tokenizer"
    ) as error:
        client.forward(TEXT, model="bert")
    assert list(error.value.fields) == ["texts"]
    with pytest.raises(polyhead.ModelNotFoundError):
        client.forward(TEXT, model="none")
    with pytest.raises(polyhead.InvalidArgumentError, match="expected a layer from 0 to 1; got 2"):
        client.forward(token_ids=[[1]], model="bert", need_weights={2: True})


@needs_minilm
def test_text_in_and_attention_out(client):
    result = client.forward(
        TEXT,
        model="minilm",
        need_weights={3: Weights(queries="bank", top_k=5), 5: True},
        need_hidden_states=(0, 6),
    )
    assert result.tokens == [TOKENS]
    assert result.lengths.tolist() == [12]
    assert result.attn_weights[3].shape == (1, 12, 1, 5)
    assert result.attn_weights[5].shape == (1, 12, 12, 12)
    assert result.hidden_states[6].shape == (1, 12, 384)
    assert result.queries[3].tolist() == [[9]]
    row = client.forward(TEXT, model="minilm", need_weights={3: True}).attn_weights[3][0, :, 9]
    np.testing.assert_allclose(
        result.attn_weights[3][0, :, 0], -np.sort(-row, axis=-1)[:, :5], atol=1e-6
    )
    [(token, weight), *_] = result.top("bank", layer=5)
    mean = result.attn_weights[5][0, :, 9].mean(axis=0)
    assert (token, weight) == (TOKENS[mean.argmax()], pytest.approx(float(mean.max())))


@needs_minilm
def test_the_readmes_example_of_one_row(client):
    """BM42's term weights: the row of [CLS] in the last layer, the mean of its heads."""
    [stack] = client.model("minilm").whole.stacks
    last = stack.num_layers - 1
    wanted = {last: Weights(queries=0, average_heads=True)}
    texts = [TEXT, "money in the bank"]
    result = client.forward(texts, model="minilm", need_weights=wanted, need_output=False)
    for index, tokens in enumerate(result.tokens):
        row = result.attn_weights[last][index, 0, 0, : len(tokens)]
        assert row.sum() == pytest.approx(1, abs=1e-5)
        assert not result.attn_weights[last][index, 0, 0, len(tokens) :].any()


# --- a server that fails


def test_a_call_with_its_metadata_and_id(fake):
    with polyhead.Client(fake.target, metadata={"x-tenant": "t"}) as client:
        result = client.forward(TEXT, model="t5", request_id="me", need_weights=True)
    assert result.request_id == "me"
    assert fake.metadata["x-tenant"] == "t"
    assert list(result.attn_weights) == [("encoder", layer) for layer in range(3)]
    assert list(
        run_async(fake.target, text=TEXT, model="t5", need_hidden_states=True).hidden_states
    )


@pytest.mark.parametrize("is_async", [False, True])
def test_failures_raise_the_documented_errors(fake, connected, is_async):
    def forward(**arguments):
        if is_async:
            return run_async(fake.target, text=TEXT, model="bert", **arguments)
        return connected.forward(TEXT, model="bert", **arguments)

    with pytest.raises(polyhead.ServerError, match="internal error"):
        forward(request_id="fails")
    with pytest.raises(polyhead.DeadlineExceededError, match=r"within 0\.2 s"):
        forward(request_id="wait", timeout=0.2)
    with pytest.raises(polyhead.InvalidArgumentError, match="timeout"):
        forward(timeout=0)
    with pytest.raises(polyhead.InvalidArgumentError, match="need_weights"):
        forward(need_weights="bank")


def test_cancelling_the_task_cancels_the_call(fake):
    async def run():
        async with polyhead.AsyncClient(fake.target) as client:
            call = client.forward(TEXT, model="bert", request_id="wait")
            task = asyncio.create_task(call)
            await asyncio.to_thread(fake.entered.wait, 30)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert await asyncio.to_thread(fake.cancelled.wait, 30)

    asyncio.run(run())
