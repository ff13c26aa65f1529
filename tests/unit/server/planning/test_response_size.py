"""Sizes of responses, computed before the run, and advice for those that are too large."""

from __future__ import annotations

import re
from dataclasses import replace

import hypothesis
import pytest
from hypothesis import strategies as st

from polyhead_server.errors import InvalidRequestError, LimitExceededError
from polyhead_server.planning.response_size import (
    ResponseSize,
    check_response_size,
    check_row_of_scores,
    rows_in_a_block,
)

OUTPUT = ResponseSize(batch_size=2, q_seq_len=100, output_dim=8, output_itemsize=4)
WEIGHTS = replace(OUTPUT, heads=4, queries=100, keys=100, weight_itemsize=4)
KIB = 1 << 10


def refusal(size, limit):
    with pytest.raises(LimitExceededError) as caught:
        check_response_size(size, limit)
    error = caught.value
    assert (error.limit, error.reason) == ("max_response_bytes", "OUTPUT_TOO_LARGE")
    assert error.figures == {"expected": str(limit), "got": str(size.nbytes)}
    assert "--max-response-bytes" in error.message
    return error.message


def test_nbytes():
    overhead = OUTPUT.nbytes - 2 * 100 * 8 * 4
    assert 0 < overhead <= KIB
    assert WEIGHTS.nbytes - OUTPUT.nbytes == 2 * 4 * 100 * 100 * 4
    top = replace(WEIGHTS, keys=5, has_indices=True, weight_itemsize=2)
    assert top.nbytes - OUTPUT.nbytes == 2 * 4 * 100 * 5 * (2 + 4)
    alone = replace(WEIGHTS, output_dim=0)
    assert alone.nbytes == WEIGHTS.nbytes - (OUTPUT.nbytes - overhead)
    assert WEIGHTS.rows(3).nbytes - overhead == 2 * 3 * (8 * 4 + 4 * 100 * 4)


def test_a_response_that_fits_passes():
    check_response_size(WEIGHTS, WEIGHTS.nbytes)
    assert refusal(WEIGHTS, WEIGHTS.nbytes - 1)


def test_the_most_useful_advice_comes_first():
    # (102400 - 1024 - 6400) / (2 x 4 x 100 x 4) queries, / (2 x 4 x 100 x 8) keys
    assert refusal(WEIGHTS, 100 * KIB) == (
        "the response would take 327424 bytes, over this server's 102400; ask for at most 29 "
        "queries, or top_k of at most 14, or average_heads; or stream it in blocks of rows "
        "(attend_rows, AttendRows); or raise its --max-response-bytes"
    )


def test_only_advice_that_fits_is_given():
    message = refusal(WEIGHTS, 50 * KIB)  # less than the mean over the heads takes
    assert "at most 13 queries" in message
    assert "average_heads" not in message
    averaged = refusal(replace(WEIGHTS, heads=1), 50 * KIB)
    assert "at most 54 queries" in averaged
    assert "average_heads" not in averaged


def test_advice_for_an_output_that_is_too_large():
    message = refusal(OUTPUT, 5 * KIB)
    assert "top_k" not in message
    assert "stream it in blocks of rows (attend_rows, AttendRows)" in message
    assert "send at most 1 of the 2 sequences at a time" in message
    assert "ask for float16" in message
    assert "float16" not in refusal(OUTPUT, 4 * KIB)
    both = refusal(replace(WEIGHTS, queries=1), 5 * KIB)
    assert "leave the output out (need_output=False, omit_output)" in both


def test_advice_is_joined_where_the_output_alone_is_too_large():
    size = replace(WEIGHTS, batch_size=1, q_seq_len=3000, queries=3000, keys=3000, output_dim=30)
    limit = 200_000  # the output takes 360,000, a row of weights 4 x 3000 x 4
    message = refusal(size, limit)
    assert "leave the output out (need_output=False, omit_output) and ask for at most 4" in message
    check_response_size(replace(size, output_dim=0, queries=4), limit)
    assert refusal(replace(size, output_dim=0, queries=5), limit)


def test_shorter_sequences_are_advised_where_nothing_else_fits():
    size = ResponseSize(batch_size=1, q_seq_len=1, output_dim=2000, output_itemsize=2)
    assert "send shorter sequences" in refusal(size, 2 * KIB)


@hypothesis.given(
    size=st.builds(
        ResponseSize,
        batch_size=st.integers(1, 9),
        q_seq_len=st.integers(1, 99),
        output_dim=st.integers(0, 99),
        output_itemsize=st.sampled_from([2, 4, 8]),
        heads=st.integers(1, 20),
        queries=st.integers(1, 99),
        keys=st.integers(1, 99),
        weight_itemsize=st.sampled_from([2, 4, 8]),
        has_indices=st.booleans(),
    ),
    limit=st.integers(KIB, 1 << 20),
)
def test_all_advice_fits_and_one_more_does_not(size, limit):
    hypothesis.assume(size.nbytes > limit)
    message = refusal(size, limit)
    alone = replace(size, output_dim=0)
    needs_both = "omit_output) and ask for" in message
    axes = {
        r"at most (\d+) queries": ("queries", alone if needs_both else size),
        r"top_k of at most (\d+)": ("keys", replace(size, has_indices=True)),
        r"at most (\d+) heads": ("heads", size),
        r"at most (\d+) of the \d+ sequences": ("batch_size", size),
    }
    for pattern, (axis, narrowed) in axes.items():
        if found := re.search(pattern, message):
            number = int(found[1])
            assert 1 <= number < getattr(size, axis)
            assert replace(narrowed, **{axis: number}).nbytes <= limit
            assert replace(narrowed, **{axis: number + 1}).nbytes > limit
    if "average_heads" in message:
        assert replace(size, heads=1).nbytes <= limit
    if "omit_output" in message:
        assert (alone.nbytes <= limit) != needs_both
    if "AttendRows" in message:
        assert rows_in_a_block(size, 0, limit) >= 1
    if "float16" in message:
        assert replace(size, output_itemsize=2, weight_itemsize=2).nbytes <= limit
    assert message.count("; or ") <= 3


# ---------------------------------------------------------------- blocks


def test_blocks_take_up_to_4_mib_unless_rows_per_block_is_set():
    long = ResponseSize(1, 8192, 768, 4, heads=12, queries=8192, keys=8192, weight_itemsize=4)
    rows = rows_in_a_block(long, 0, 256 << 20)
    assert long.rows(rows).nbytes <= 4 << 20 < long.rows(rows + 1).nbytes
    assert rows_in_a_block(long, 100, 256 << 20) == 100
    assert rows_in_a_block(WEIGHTS, 0, 256 << 20) == 100  # all rows
    assert rows_in_a_block(WEIGHTS, 2**31 - 1, 256 << 20) == 100


def test_a_block_has_at_least_one_row():
    wide = replace(WEIGHTS, keys=10 << 20)
    assert rows_in_a_block(wide, 0, 1 << 30) == 1


def test_a_block_never_exceeds_the_limit():
    limit = 100 * KIB
    rows = rows_in_a_block(WEIGHTS, 0, limit)
    assert WEIGHTS.rows(rows).nbytes <= limit < WEIGHTS.rows(rows + 1).nbytes
    assert rows_in_a_block(WEIGHTS, rows, limit) == rows
    with pytest.raises(LimitExceededError, match=f"rows_per_block to at most {rows}") as caught:
        rows_in_a_block(WEIGHTS, rows + 1, limit)
    assert caught.value.limit == "max_response_bytes"
    # more than there are rows is all of them, which may fit
    assert rows_in_a_block(WEIGHTS.rows(rows), 1000, limit) == rows


def test_a_row_that_does_not_fit_is_refused_with_advice():
    with pytest.raises(LimitExceededError, match="a block of a single row") as caught:
        rows_in_a_block(replace(WEIGHTS, keys=1000), 0, 8 * KIB)
    message = caught.value.message
    assert "ask for top_k of at most" in message
    assert "AttendRows" not in message
    assert "queries" not in message
    assert "rows_per_block" not in message


def test_negative_rows_per_block_are_refused():
    with pytest.raises(InvalidRequestError) as caught:
        rows_in_a_block(WEIGHTS, -1, 1 << 20)
    assert (caught.value.field, caught.value.reason) == ("rows_per_block", "OUT_OF_RANGE")


# ---------------------------------------------------------------- scores


@pytest.mark.parametrize("heads", [0, 1, 4])
def test_a_row_of_scores_that_fits_passes(heads):
    check_row_of_scores(heads, 256, 4 * 256 * 4)


@pytest.mark.parametrize(
    ("heads", "limit", "advice"), [(4, 4096, "at most 256 keys"), (2000, 4096, "fewer heads")]
)
def test_a_row_of_scores_over_the_limit_is_refused(heads, limit, advice):
    with pytest.raises(LimitExceededError, match=advice) as caught:
        check_row_of_scores(heads, 257, limit)
    error = caught.value
    assert (error.limit, error.reason) == ("max_scores_bytes", "SCORES_TOO_LARGE")
    assert "--max-scores-bytes" in error.message
    assert error.figures == {"expected": str(limit), "got": str(heads * 257 * 4)}
