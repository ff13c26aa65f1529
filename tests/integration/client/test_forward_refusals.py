"""A fault of a Forward is refused with the same error by the client and by the server."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest
from golden import GOLDEN
from raw_calls import open_channel, refused

import polyhead
from polyhead import InvalidArgumentError, Weights
from polyhead.v1 import attention_pb2 as pb
from polyhead.v1 import forward_pb2 as fpb
from polyhead.wire.tensors import to_tensor
from polyhead_models.checkpoint.checkpoint import Checkpoint
from polyhead_models.export.whole import export_whole_model
from polyhead_server.running import running_server

IDS = np.array([[1, 2, 3], [4, 5, 6]])
STATES = np.ones((2, 3, 64), np.float32)
GOOD = {"token_ids": IDS, "model": "bert"}


def array(name, value):
    return {name: value}, {name: to_tensor(np.asarray(value))}


def weights(**selection):
    message = fpb.LayerWeights(
        layer=fpb.LayerRef(layer=1), selection=pb.AttnWeightsSelection(**selection)
    )
    return {"need_weights": {1: Weights(**selection)}}, {"attn_weights": [message]}


def same(**fields):
    return fields, fields


SENT = {
    "no input": ({"token_ids": None}, {"token_ids": None}),
    "two inputs": array("hidden_states", STATES),
    "text and ids": ({"text": "a"}, {"texts": ["a"]}),
    "ids of float": array("token_ids", IDS.astype(np.float32)),
    "ids of one axis": array("token_ids", IDS[0]),
    "ids of three axes": array("token_ids", IDS[None]),
    "one length": same(lengths=[3]),
    "length 0": same(lengths=[3, 0]),
    "length beyond": same(lengths=[4, 1]),
    "memory": array("memory", STATES),
    "memory of integers": array("memory", IDS),
    "head negative": weights(heads=[-1]),
    "head twice": weights(heads=[1, 1]),
    "query negative": weights(queries=[-1]),
    "query twice": weights(queries=[1, 1]),
    "top of less than none": weights(top_k=-1),
    "weights of integers": (
        {"need_weights": {1: Weights(dtype="int32")}},
        weights(dtype=pb.DATA_TYPE_INT32)[1],
    ),
    "word of ids": (
        {"need_weights": {1: Weights(queries="bank")}},
        {"attn_weights": [fpb.LayerWeights(layer=fpb.LayerRef(layer=1), query_words=["bank"])]},
    ),
    "output of bool": ({"output_dtype": bool}, {"output_dtype": pb.DATA_TYPE_BOOL}),
    "no model": same(model=""),
    "id too long": same(request_id="é" * 129),
}


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    repository = tmp_path_factory.mktemp("whole")
    export_whole_model(Checkpoint.open(GOLDEN / "bert"), "bert", repository)
    with running_server(repository, threads=1) as running:
        yield running


@pytest.fixture(scope="module")
def client(server):
    with polyhead.Client(server.target) as client:
        yield client


@pytest.fixture(scope="module")
def channel(server):
    with open_channel(server) as channel:
        yield channel


def damaged(fields):
    """Make a valid request and replace these fields; None removes one."""
    request = fpb.ForwardRequest(model="bert", token_ids=to_tensor(IDS))
    for name, value in fields.items():
        request.ClearField(name)
        if value is not None:
            request.MergeFrom(fpb.ForwardRequest(**{name: value}))
    return request.SerializeToString()


@pytest.mark.parametrize(("arguments", "fields"), SENT.values(), ids=SENT.keys())
def test_client_and_server_refuse_a_fault_with_the_same_error(channel, client, arguments, fields):
    there = refused(channel, damaged(fields), "Forward")
    with pytest.raises(InvalidArgumentError) as caught:
        client.forward(**GOOD | arguments)
    here = caught.value
    assert not here.figures  # it was refused before anything was sent
    assert (here.code, here.reason, [*here.fields]) == (there.code, there.reason, [there.field])


@pytest.mark.parametrize(
    ("arguments", "field", "message"),
    [
        (
            {"need_weights": {0: True, 5: True}},
            "attn_weights[1].layer.layer",
            "need_weights[5]: expected a layer from 0 to 1; got 5",
        ),
        (
            {"need_weights": Weights(heads=9)},
            "attn_weights[0].selection.heads[0]",
            "need_weights.heads[0]: expected 0 to num_heads - 1 = 3; got 9",
        ),
        (
            {"need_weights": {("encoder", 0): Weights(queries=3)}},
            "attn_weights[0].selection.queries[0]",
            "need_weights[('encoder', 0)].queries[0]: expected 0 to q_seq_len - 1 = 2; got 3",
        ),
        (
            {"need_hidden_states": (0, 7)},
            "hidden_states_wanted[1].layer",
            "need_hidden_states: expected a layer from 0 to 2; got 7",
        ),
        (
            {"token_ids": None, "hidden_states": STATES, "first_layer": 4},
            "first_layer.layer",
            "first_layer: expected a layer from 0 to 2; got 4",
        ),
        (
            {"token_ids": None, "text": "a"},
            "texts",
            "text: is set, but the model was exported without a tokenizer.json",
        ),
        ({"last_layer": 2}, "last_layer", "last_layer: expected a layer from 0 to 1; got 2"),
    ],
)
def test_what_only_the_server_finds_names_the_argument(client, arguments, field, message):
    with pytest.raises(InvalidArgumentError) as caught:
        client.forward(**GOOD | arguments)
    assert str(caught.value).startswith(message)
    assert [*caught.value.fields] == [field]


def test_async_errors_name_the_argument(server):
    async def call():
        async with polyhead.AsyncClient(server.target) as client:
            await client.forward(**GOOD, need_weights={5: True})

    with pytest.raises(InvalidArgumentError, match=r"^need_weights\[5\]: expected a layer"):
        asyncio.run(call())


def test_the_undamaged_request_is_accepted(client):
    assert client.forward(**GOOD).output.shape == (2, 3, 64)


def test_an_empty_text(channel, client):
    there = refused(channel, damaged({"token_ids": None, "texts": ["a", ""]}), "Forward")
    assert there.reason == "NO_TOKENIZER"  # because this model has none
    with pytest.raises(InvalidArgumentError) as caught:
        client.forward(["a", ""], model="bert")
    assert (caught.value.reason, [*caught.value.fields]) == ("EMPTY", ["texts[1]"])
