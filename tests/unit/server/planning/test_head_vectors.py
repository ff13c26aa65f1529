"""Selections of heads' vectors against the model, the limits, and requests that share a run."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from fake_requests import LIMITS, call_of

from polyhead.v1 import attention_pb2 as pb
from polyhead_models.config import AttentionConfig
from polyhead_server.codec.request_fields import read_vectors
from polyhead_server.errors import InvalidRequestError, LimitExceededError
from polyhead_server.head_vectors import VectorsSelection
from polyhead_server.planning.plan import plan_call, plan_rows

CONFIG = AttentionConfig(embed_dim=8, num_heads=4, num_kv_heads=2)
QUERY, KEY = np.ones((2, 3, 8), np.float32), np.ones((2, 5, 8), np.float32)


def a_call(vectors=None, **fields):
    call = call_of({"query": QUERY, "key": KEY}, **fields)
    return replace(call, vectors=vectors or VectorsSelection())


def plan(vectors=None, limits=LIMITS, **fields):
    return plan_call(a_call(vectors, **fields), CONFIG, limits)


@pytest.mark.parametrize(
    ("selection", "field", "reason"),
    [
        (VectorsSelection(heads=(4,)), "head_vectors.heads[0]", "OUT_OF_RANGE"),
        (VectorsSelection(queries=(0, 3)), "head_vectors.queries[1]", "OUT_OF_RANGE"),
        (VectorsSelection(keys=(5,)), "head_vectors.keys[0]", "OUT_OF_RANGE"),
        (VectorsSelection(keys=(1, 1)), "head_vectors.keys", "DUPLICATE"),
    ],
)
def test_selections_that_do_not_fit_are_refused(selection, field, reason):
    with pytest.raises(InvalidRequestError) as caught:
        plan(selection)
    assert (caught.value.field, caught.value.reason) == (field, reason)


def test_blocks_of_rows_have_no_vectors():
    with pytest.raises(InvalidRequestError, match="call Attend for them") as caught:
        plan_rows(a_call(), 1, CONFIG, LIMITS)
    assert (caught.value.field, caught.value.reason) == ("call.head_vectors", "NOT_APPLICABLE")


def test_vectors_are_enough_without_output():
    assert plan(need_output=False).plain_run is None


def test_the_response_is_counted_with_its_vectors():
    both = VectorsSelection(("query", "key"), dtype=pb.DATA_TYPE_FLOAT16)
    numbers = 2 * (4 * 3 * 2 + 2 * 5 * 2)
    without = plan_call(call_of({"query": QUERY, "key": KEY}), CONFIG, LIMITS)
    assert plan(both).size.nbytes == without.size.nbytes + 2 * numbers
    chosen = replace(both, heads=(0, 1, 3), queries=(1,), keys=(4, 2))
    assert plan(chosen).size.num_vector_elements == 3 * 1 * 2 + 3 * 2 * 2
    limit = plan(both).size.nbytes
    plan(both, replace(LIMITS, max_response_bytes=limit))
    with pytest.raises(LimitExceededError, match="vectors of fewer heads, queries or keys"):
        plan(both, replace(LIMITS, max_response_bytes=limit - 1))


def test_calls_share_a_run_if_their_vectors_are_the_same():
    query = VectorsSelection(("query",))
    assert plan(query).batch_key == plan(replace(query, dtype=pb.DATA_TYPE_DOUBLE)).batch_key
    assert plan(query).batch_key != plan(replace(query, heads=(1,))).batch_key
    assert plan(query).batch_key != plan(VectorsSelection(("key",))).batch_key


def test_contexts_are_counted_as_attention_and_projections_are_not():
    costs = [plan(VectorsSelection((kind,)), need_output=False).cost for kind in ("key", "context")]
    assert costs[0].multiply_adds < costs[1].multiply_adds
    assert costs[1].multiply_adds <= plan().cost.multiply_adds


def test_kinds_are_read_in_the_contracts_order():
    assert read_vectors("v", pb.HeadVectorsSelection()).kinds == ("query", "key", "value")
    assert read_vectors("v", pb.HeadVectorsSelection(kinds=[4, 1])).kinds == ("query", "context")
    for kinds, reason in (([0], "INVALID_VALUE"), ([1, 5], "INVALID_VALUE"), ([2, 2], "DUPLICATE")):
        with pytest.raises(InvalidRequestError) as caught:
            read_vectors("v", pb.HeadVectorsSelection(kinds=kinds))
        assert caught.value.field == f"v.kinds[{len(kinds) - 1}]"
        assert caught.value.reason == reason
