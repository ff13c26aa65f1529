"""Checks of a call against its model: shapes, layouts, positions, selections, dtypes, sizes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from fake_requests import LIMITS, call_of

from polyhead.v1 import attention_pb2 as pb
from polyhead_models.config import AttentionConfig
from polyhead_models.rotary import Rotary
from polyhead_server.call import Stage, WeightsSelection
from polyhead_server.errors import InvalidRequestError, LimitExceededError
from polyhead_server.planning.plan import plan_call, plan_rows

PLAIN = AttentionConfig(embed_dim=8, num_heads=2)
ROTARY = AttentionConfig(embed_dim=8, num_heads=2, rotary=Rotary(dim=4))
HALF = AttentionConfig(embed_dim=8, num_heads=2, precision="float16")
CAUSAL = AttentionConfig(embed_dim=16, num_heads=2, is_causal=True)
SDPA = AttentionConfig(
    embed_dim=12,
    num_heads=4,
    num_kv_heads=2,
    head_dim=3,
    v_head_dim=5,
    has_in_proj=False,
    has_out_proj=False,
)


def array(*shape, dtype=np.float32):
    return np.random.default_rng(0).standard_normal(shape).astype(dtype)


def a_call(query=None, **fields):
    """Make a call and its arrays, which are given by the name of their field."""
    given = {"query": array(2, 3, 8) if query is None else query} | fields
    numbers = {name: field for name, field in given.items() if isinstance(field, np.ndarray)}
    others = {name: field for name, field in given.items() if name not in numbers}
    return call_of(numbers, **others), numbers


def prepare(given, config, limits=LIMITS):
    """Check a call, and return the inputs of its run."""
    call, numbers = given
    return plan_call(call, config, limits).inputs(numbers)


def prepare_rows(given, rows_per_block, config, limits=LIMITS):
    return plan_rows(given[0], rows_per_block, config, limits)


def refusal(config, call, limits=LIMITS, error=InvalidRequestError):
    with pytest.raises(error) as caught:
        prepare(call, config, limits)
    return caught.value


def assert_refused(config, call, field, reason):
    error = refusal(config, call)
    assert (error.field, error.reason) == (field, reason)
    assert error.message.startswith(f"{field}: ")
    return error


# ---------------------------------------------------------------- embeddings and heads


@pytest.mark.parametrize("given", ["query", "key", "all"])
def test_an_absent_key_is_the_query_and_an_absent_value_is_the_key_converted_once(given):
    fields = {"key": array(2, 5, 8), "value": array(2, 5, 8)}
    kept = {"query": 0, "key": 1, "all": 2}[given]
    call = a_call(**dict([*fields.items()][:kept]))
    inputs = prepare(call, PLAIN, LIMITS)
    assert (inputs.key is inputs.query) == (given == "query")
    assert (inputs.value is inputs.key) == (given != "all")
    assert inputs.query is not None
    assert np.shares_memory(inputs.query, call[1]["query"])


def heads(array, num_heads):
    """(batch_size, seq_len, width) -> (batch_size, num_heads, seq_len, head_dim)."""
    return array.reshape(*array.shape[:2], num_heads, -1).transpose(0, 2, 1, 3)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_inputs_of_4_axes_equal_those_of_3_axes(dtype):
    query, key, value = (array(2, n, w, dtype=dtype) for n, w in ((3, 12), (5, 6), (5, 10)))
    flat = prepare(a_call(query, key=key, value=value), SDPA, LIMITS)
    by_head = a_call(heads(query, 4), key=heads(key, 2), value=heads(value, 2))
    split = prepare(by_head, SDPA, LIMITS)
    for name in ("query", "key", "value"):
        made = getattr(split, name)
        np.testing.assert_array_equal(made, getattr(flat, name))
        assert made.dtype == np.float32
        assert made.flags.c_contiguous


def test_a_query_of_4_axes_is_transposed_once_for_self_attention():
    config = AttentionConfig(embed_dim=12, num_heads=4, has_in_proj=False, has_out_proj=False)
    inputs = prepare(a_call(heads(array(2, 3, 12), 4)), config, LIMITS)
    assert inputs.query is inputs.key is inputs.value
    assert inputs.query.shape == (2, 3, 12)


@pytest.mark.parametrize(
    ("config", "fields", "field", "expected", "words"),
    [
        (PLAIN, {"query": array(2, 2, 3, 4)}, "query", "embed_dim=8", "only models without input"),
        (PLAIN, {"query": array(2, 3, 9)}, "query", "embed_dim=8", "got [2, 3, 9]"),
        (PLAIN, {"query": array(3, 8)}, "query", "embed_dim=8", "got [3, 8]"),
        (PLAIN, {"key": array(1, 4, 8)}, "key", "batch_size=2", "got [1, 4, 8]"),
        (
            SDPA,
            {"query": array(2, 3, 13)},
            "query",
            "embed_dim=12",
            "(batch_size, 4, q_seq_len, 3)",
        ),
        (SDPA, {"query": array(2, 3, 4, 3)}, "query", "num_heads=4, q_seq_len", "side by side"),
        (
            SDPA,
            {"query": array(2, 4, 3, 3), "key": array(2, 5, 6)},
            "key",
            "num_kv_heads=2",
            "2, 5",
        ),
        (SDPA, {"query": array(2, 3, 12), "key": array(2, 2, 5, 3)}, "key", "kdim=6", "2, 2, 5, 3"),
        (
            SDPA,
            {"query": array(2, 4, 3, 3), "key": array(2, 2, 5, 3), "value": array(2, 2, 4, 5)},
            "value",
            "batch_size=2, num_kv_heads=2, kv_seq_len=5, v_head_dim=5",
            "[2, 2, 4, 5]",
        ),
    ],
)
def test_shapes_that_do_not_fit_are_refused(config, fields, field, expected, words):
    error = assert_refused(config, a_call(**fields), f"{field}.shape", "SHAPE_MISMATCH")
    assert expected in error.figures["expected"]
    assert words in error.message


@pytest.mark.parametrize(("missing", "config"), [("key", SDPA), ("value", SDPA)])
def test_a_query_of_4_axes_needs_key_and_value_if_their_heads_differ(missing, config):
    fields = {} if missing == "key" else {"key": array(2, 2, 5, 3)}
    assert_refused(config, a_call(array(2, 4, 3, 3), **fields), missing, "REQUIRED")


# ---------------------------------------------------------------- numbers


@pytest.mark.parametrize("field", ["query", "key", "value"])
def test_numbers_beyond_the_models_precision_are_refused(field):
    given = {name: array(2, 3, 8) for name in ("query", "key", "value")}
    given[field][0, 1, 2] = 1e5
    assert prepare(a_call(**given), PLAIN, LIMITS)
    error = assert_refused(HALF, a_call(**given), f"{field}.data", "NON_FINITE")
    assert "beyond float16" in error.message
    given[field][0, 1, 2] = 1e4
    inputs = prepare(a_call(**given), HALF, LIMITS)
    assert inputs.query.dtype == inputs.key.dtype == inputs.value.dtype == np.float16


def test_a_mask_stays_as_it_was_sent():
    """Expanded to a number for every score, it would be as large as all scores."""
    lowest = np.where(np.eye(3, dtype=bool), np.float32(0), np.finfo(np.float32).min)
    for mask in (lowest, np.eye(3, dtype=bool)):
        inputs = prepare(a_call(attn_mask=mask), HALF, LIMITS)
        assert np.shares_memory(inputs.attn_mask, mask)
        assert inputs.attn_mask.shape == (1, 1, 3, 3)
    lowest[0, 0] = 1e5  # beyond the model's float16
    assert_refused(HALF, a_call(attn_mask=lowest), "attn_mask.data", "NON_FINITE")


# ---------------------------------------------------------------- positions


def positions_of(config=ROTARY, **fields):
    inputs = prepare(a_call(**fields), config, LIMITS)
    for made in (inputs.positions, inputs.key_positions):
        assert made.dtype == np.int64
        assert made.flags.c_contiguous
    return inputs.positions.tolist(), inputs.key_positions.tolist()


def test_positions_default_to_0_1_2():
    assert positions_of() == ([[0, 1, 2]] * 2, [[0, 1, 2]] * 2)
    assert positions_of(key=array(2, 4, 8)) == ([[0, 1, 2]] * 2, [[0, 1, 2, 3]] * 2)


def test_without_a_key_its_positions_default_to_the_queries():
    given = np.array([7, 8, 9], np.int32)
    assert positions_of(positions=given) == ([[7, 8, 9]] * 2, [[7, 8, 9]] * 2)
    with_key = positions_of(positions=given, key=array(2, 3, 8))
    assert with_key == ([[7, 8, 9]] * 2, [[0, 1, 2]] * 2)
    keys = np.array([[1, 2, 3], [4, 5, 2**24 - 1]])
    assert positions_of(positions=given, key_positions=keys)[1] == keys.tolist()
    assert positions_of(key_positions=keys)[0] == [[0, 1, 2]] * 2


def test_positions_of_each_sequence():
    given = np.array([[0, 1, 2], [5, 6, 7]], np.int64)
    assert positions_of(positions=given)[0] == given.tolist()


def test_models_without_a_rotary_embedding_take_no_positions():
    inputs = prepare(a_call(), PLAIN, LIMITS)
    assert inputs.positions is None
    assert inputs.key_positions is None
    for field in ("positions", "key_positions"):
        call = a_call(**{field: np.arange(3)})
        error = assert_refused(PLAIN, call, field, "NOT_APPLICABLE")
        assert "no rotary embedding" in error.message


@pytest.mark.parametrize("field", ["positions", "key_positions"])
@pytest.mark.parametrize("shape", [(1,), (4,), (2,), (1, 3), (3, 2), (2, 3, 1)])
def test_positions_of_a_wrong_shape_are_refused(field, shape):
    call = a_call(**{field: np.zeros(shape, np.int64)})
    error = assert_refused(ROTARY, call, f"{field}.shape", "SHAPE_MISMATCH")
    assert "seq_len=3) or (batch_size=2" in error.message


@pytest.mark.parametrize("field", ["positions", "key_positions"])
@pytest.mark.parametrize("number", [-1, 2**24, 2**63 - 1, -(2**63)])
def test_positions_out_of_range_are_refused(field, number):
    call = a_call(**{field: np.array([0, number, 1])})
    error = assert_refused(ROTARY, call, f"{field}.data", "OUT_OF_RANGE")
    assert str(number) in error.message


# ---------------------------------------------------------------- selections


def test_top_k_is_at_most_the_number_of_keys():
    for top_k, expected in ((0, 0), (2, 2), (3, 3), (2**31 - 1, 3)):
        call = a_call(weights=WeightsSelection(top_k=top_k))
        assert prepare(call, PLAIN, LIMITS).weights.top_k == expected


def test_a_selection_stays_unchanged():
    selection = WeightsSelection((1,), (2, 0), 1, True, Stage.MASKED, pb.DATA_TYPE_FLOAT16)
    inputs = prepare(a_call(weights=selection, need_output=False), PLAIN, LIMITS)
    assert inputs.weights == selection
    assert not inputs.need_output


@pytest.mark.parametrize(
    ("selection", "field", "reason"),
    [
        ({"top_k": -1}, "top_k", "OUT_OF_RANGE"),
        ({"top_k": -(2**31)}, "top_k", "OUT_OF_RANGE"),
        ({"heads": (2,)}, "heads[0]", "OUT_OF_RANGE"),
        ({"heads": (0, 1, 0)}, "heads", "TOO_MANY"),
        ({"queries": (1, 1)}, "queries", "DUPLICATE"),
        ({"queries": (0, 3)}, "queries[1]", "OUT_OF_RANGE"),
    ],
)
def test_selections_that_do_not_fit_are_refused(selection, field, reason):
    call = a_call(weights=WeightsSelection(**selection))
    assert_refused(PLAIN, call, f"attn_weights.{field}", reason)


def test_a_request_for_neither_output_nor_weights_is_refused():
    assert_refused(PLAIN, a_call(need_output=False), "omit_output", "REQUIRED")


# ---------------------------------------------------------------- sizes


def response_limit(limit):
    return replace(LIMITS, max_response_bytes=limit)


@pytest.mark.parametrize(
    ("selection", "fits"),
    [
        ({}, False),
        ({"queries": tuple(range(12))}, True),
        ({"top_k": 6}, True),
        ({"heads": (0,)}, False),
        ({"average_heads": True, "dtype": pb.DATA_TYPE_FLOAT16}, True),
    ],
)
def test_the_size_of_the_response_follows_the_selection(selection, fits):
    """2 heads x 100 queries x 100 keys x 4 bytes = 80 kB of weights, and 3200 bytes of output."""
    call = a_call(array(1, 100, 8), weights=WeightsSelection(**selection))
    limits = response_limit(30_000)
    if fits:
        assert prepare(call, PLAIN, limits)
    else:
        error = refusal(PLAIN, call, limits, LimitExceededError)
        assert error.reason == "OUTPUT_TOO_LARGE"
        assert "queries" in error.message


def test_an_omitted_output_does_not_count_towards_the_response_size():
    call = a_call(array(1, 100, 8), weights=WeightsSelection(queries=(0,)))
    limits = response_limit(3000)
    assert "omit_output" in refusal(PLAIN, call, limits, LimitExceededError).message
    alone = a_call(array(1, 100, 8), weights=WeightsSelection(queries=(0,)), need_output=False)
    assert prepare(alone, PLAIN, limits)


@pytest.mark.parametrize(
    ("config", "fields", "heads"),
    [
        (PLAIN, {}, 0),
        (PLAIN, {"weights": WeightsSelection()}, 2),
        (PLAIN, {"weights": WeightsSelection(heads=(1,))}, 1),
        (PLAIN, {"attn_mask": np.ones((1, 1), bool)}, 2),
        (PLAIN, {"attn_mask": np.ones((1, 1), bool), "weights": WeightsSelection((1,))}, 2),
        (CAUSAL, {}, 0),
        (CAUSAL, {"kv_lengths": (255,)}, 2),
        (PLAIN, {"kv_lengths": (255,)}, 0),
        (AttentionConfig(embed_dim=8, num_heads=2, softcap=5.0), {}, 2),
    ],
)
def test_one_row_of_scores_must_fit_where_scores_are_held(config, fields, heads):
    call = a_call(array(1, 256, config.embed_dim), **fields)
    needed = heads * max(call[0].kv_lengths, default=256) * 4
    assert prepare(call, config, replace(LIMITS, max_scores_bytes=max(1024, needed)))
    if needed > 1024:
        limits = replace(LIMITS, max_scores_bytes=needed - 1)
        error = refusal(config, call, limits, LimitExceededError)
        assert (error.reason, error.figures["got"]) == ("SCORES_TOO_LARGE", str(needed))


def test_a_matrix_of_scores_may_be_of_any_size():
    call = a_call(array(4, 256, 8), weights=WeightsSelection(top_k=1))
    assert prepare(call, PLAIN, replace(LIMITS, max_scores_bytes=2048))


# ---------------------------------------------------------------- rows


def test_rows_of_a_selection():
    call = a_call(array(1, 100, 8), weights=WeightsSelection(queries=(5, 3, 1)))
    plan = prepare_rows(call, 0, PLAIN, LIMITS)
    assert plan.rows_per_block == 3
    assert plan.call_plan.inputs(call[1]).weights.queries == (5, 3, 1)
    assert prepare_rows(call, 2, PLAIN, LIMITS).rows_per_block == 2


def test_a_response_that_is_too_large_fits_in_blocks_of_rows():
    call = a_call(array(1, 100, 8), weights=WeightsSelection())
    limits = response_limit(30_000)
    assert refusal(PLAIN, call, limits, LimitExceededError)
    plan = prepare_rows(call, 0, PLAIN, limits)
    # 30000 - 1024 bytes, and 8 x 4 + 2 x 100 x 4 of each row
    assert plan.rows_per_block == 34
    with pytest.raises(LimitExceededError, match="rows_per_block to at most 34"):
        prepare_rows(call, 35, PLAIN, limits)


def test_held_bytes_of_rows_count_blocks_and_projections():
    call = a_call(array(1, 100, 8), weights=WeightsSelection())
    one, ten = (prepare_rows(call, rows, PLAIN, LIMITS).held_bytes for rows in (1, 10))
    row = (8 + 2 * 100) * 4
    assert ten - one == 9 * 3 * row
    projections = 100 * 16 * 4
    assert projections + 3 * row <= one <= projections + 3 * row + 2048


@pytest.mark.parametrize(
    ("call", "rows", "field"),
    [
        (a_call(array(2, 3, 9)), 0, "call.query.shape"),
        (a_call(positions=np.arange(3)), 0, "call.positions"),
        (a_call(), -1, "rows_per_block"),
    ],
)
def test_field_paths_in_a_request_for_rows_begin_with_call(call, rows, field):
    with pytest.raises(InvalidRequestError) as caught:
        prepare_rows(call, rows, PLAIN, LIMITS)
    assert caught.value.field == field
