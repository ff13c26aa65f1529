"""Requests to whole models that are small, and would take much time or memory to plan."""

from __future__ import annotations

import json
from collections import deque
from itertools import permutations

import numpy as np
import pytest
from loads import load_repository
from tiny_checkpoint import tiny_checkpoint, words_of

from polyhead.v1 import attention_pb2 as pb
from polyhead.v1 import forward_pb2 as fpb
from polyhead.wire.tensors import to_tensor
from polyhead_models.checkpoint.checkpoint import Checkpoint
from polyhead_models.export.whole import export_whole_model
from polyhead_server.codec.forward import ForwardRequest, read_forward_call
from polyhead_server.deadline import Deadline
from polyhead_server.engine.runtime import Engine
from polyhead_server.errors import InvalidRequestError, LimitExceededError
from polyhead_server.planning.forward.plan import plan_forward
from polyhead_server.scheduling.forward_job import ForwardJob
from polyhead_server.settings import ServerSettings

MANY = 500


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dear")
    checkpoint = tiny_checkpoint(folder, "bert", words_of(["the river bank ."]))
    export_whole_model(Checkpoint.open(checkpoint), "bert", folder / "models")
    return load_whole(folder / "models", "bert")


@pytest.fixture(scope="module")
def ligature_model(tmp_path_factory):
    """A model that takes any number of tokens, and to whose tokenizer a ligature is four words."""
    folder = tmp_path_factory.mktemp("ligatures")
    checkpoint = tiny_checkpoint(folder, "llama", words_of(["the river bank ."]))
    described = json.loads((checkpoint / "tokenizer.json").read_text())
    described["normalizer"] = {"type": "NFKC"}
    (checkpoint / "tokenizer.json").write_text(json.dumps(described))
    export_whole_model(Checkpoint.open(checkpoint), "llama", folder / "models")
    return load_whole(folder / "models", "llama")


def load_whole(repository, name):
    engine = Engine("cpu", {}, threads=1, spinning=False, max_scores_bytes=1 << 20)
    return load_repository(repository, engine).whole(name, 0)


def call_of(**fields):
    request = fpb.ForwardRequest(model="bert", omit_output=True, **fields)
    return read_forward_call(request.SerializeToString())


def plan(model, call, **settings):
    """Return what each step takes, and the plan."""
    steps = plan_forward(call, model, ServerSettings(**settings))
    taken = []
    while True:
        try:
            taken.append(next(steps))
        except StopIteration as end:
            return taken, end.value


def rows_of(*words, **selection):
    return fpb.LayerWeights(
        query_words=words, selection=pb.AttnWeightsSelection(top_k=1, heads=[0], **selection)
    )


def test_rows_of_words_are_found_once_for_all_layers_and_selections(model):
    call = call_of(texts=["the river bank"] * MANY, attn_weights=[rows_of("river")] * 100)
    taken, planned = plan(model, call, max_response_bytes=2**31 - 1)
    (stack,) = planned.run.plans
    assert len(stack.weights) == 100 * len(stack.stack.layers)
    assert {id(wanted.rows) for wanted in stack.weights} == {id(stack.weights[0].rows)}
    assert len(taken) > MANY  # looking for a word in one text is a step
    assert sum(taken) > MANY * 64


def test_words_that_differ_are_bounded_in_all_selections_together(model):
    wanted = [rows_of("river", queries=[n]) for n in range(5)] * 2
    call = call_of(texts=["the river bank"] * MANY, attn_weights=wanted)
    plan(model, call, max_response_bytes=2**31 - 1)
    orders = [order for count in (4, 5) for order in permutations(range(5), count)]
    wanted = [rows_of("river", queries=order) for order in orders]
    call = call_of(texts=["the river bank"] * MANY, attn_weights=wanted)
    with pytest.raises(InvalidRequestError, match="at most 65536 words in all") as caught:
        plan(model, call)
    assert caught.value.field == "attn_weights[131].query_words"


def test_the_first_text_that_is_too_long_is_refused_before_the_others_are_read(model):
    call = call_of(texts=["bank " * 1000] * MANY)
    steps = plan_forward(call, model, ServerSettings())
    num_steps = iter(range(MANY))
    with pytest.raises(InvalidRequestError, match=r"texts\[0\]: .* and the model takes"):
        deque(zip(steps, num_steps, strict=False), maxlen=0)
    assert next(num_steps) < 10  # the texts of a group are counted one by one


@pytest.mark.parametrize(
    ("settings", "flag"),
    [({}, "--max-text-characters"), ({"max_queue_bytes": 1 << 26}, "--max-queue-bytes")],
)
def test_a_text_whose_characters_become_too_many_tokens_is_refused(ligature_model, settings, flag):
    """250,000 ligatures become 750,000 tokens, which would take 450 MB."""
    call = call_of(texts=["\ufdfa" * 250_000])
    with pytest.raises(InvalidRequestError, match=flag) as caught:
        plan(ligature_model, call, **settings)
    assert f"expected at most {250_000 if not settings else 65536};" in str(caught.value)
    assert caught.value.field == "texts[0]"
    assert caught.value.reason == "TOO_LONG"


def test_more_tokens_than_a_response_may_have_are_refused_before_all_are_made(model):
    call = call_of(texts=["bank " * 30] * 5000)
    steps = plan_forward(call, model, ServerSettings(max_response_bytes=5000 * 32 * 64 // 4))
    num_steps = iter(range(5000))
    with pytest.raises(LimitExceededError, match="send fewer or shorter texts"):
        deque(zip(steps, num_steps, strict=False), maxlen=0)
    assert next(num_steps) < 8  # of 23: a group of texts is a step


def test_tokens_and_sequences_are_accounted_for(model):
    taken, planned = plan(model, call_of(texts=["the river bank"] * MANY))
    assert sum(taken) >= 256 * planned.num_tokens
    ids = to_tensor(np.zeros((MANY, 2), np.int32))
    assert sum(plan(model, call_of(token_ids=ids))[0]) >= 64 * MANY


def test_a_slice_ends_when_it_has_taken_memory(model):
    request = ForwardRequest(call_of(texts=["bank " * 30] * 5000))
    job = ForwardJob(model, request, ServerSettings(), Deadline.after(60))
    taken = []
    while job.plan is None:
        assert job.run() == [None]
        taken.append(job.take_new_bytes())
    assert sum(taken) >= 256 * 5000 * 32
    assert max(taken) < 8 << 20


def test_sequences_are_bounded_before_they_are_looked_at(model):
    ids = to_tensor(np.zeros(((1 << 17) + 1, 1), np.int32))
    with pytest.raises(InvalidRequestError, match="at most 131072 sequences") as caught:
        plan(model, call_of(token_ids=ids))
    assert caught.value.field == "token_ids.shape"


@pytest.mark.parametrize(("num_tokens", "is_short"), [(100, True), (20_000, False)])
def test_long_sequences_have_long_steps(ligature_model, num_tokens, is_short):
    ids = to_tensor(np.zeros((1, num_tokens), np.int32))
    request = ForwardRequest(call_of(token_ids=ids))
    job = ForwardJob(ligature_model, request, ServerSettings(), Deadline.after(60))
    assert job.is_short  # reading and planning
    while job.plan is None:
        job.run()
    assert job.is_short == is_short
