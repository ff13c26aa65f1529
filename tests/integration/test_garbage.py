"""A call that has ended leaves nothing for Python's collector: requests may hold megabytes."""

from __future__ import annotations

import gc

import numpy as np
import pytest

import polyhead
from polyhead_server.call import AttentionCall, AttentionInputs, AttentionOutputs
from polyhead_server.errors import RequestError
from polyhead_server.runs import Run

HELD = (AttentionCall, AttentionInputs, AttentionOutputs, RequestError, Run)


@pytest.fixture
def uncollected():
    """Keep the collector from running, and give a function that tells what it would have found."""

    def found():
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        gc.set_debug(0)
        kept = [type(thing).__name__ for thing in gc.garbage if isinstance(thing, HELD)]
        gc.garbage.clear()
        return kept

    gc.collect()
    gc.disable()
    try:
        yield found
    finally:
        gc.enable()


def query(width=16):
    return np.zeros((2, 500, width), np.float32)


def refused(client):
    with pytest.raises(polyhead.InvalidArgumentError):
        client.attend(query(15), model="plain")


def half_read(client):
    with client.attend_rows(query(), model="plain", rows_per_block=10) as rows:
        next(rows)


CALLS = {
    "plain": lambda client: client.attend(query(), model="plain"),
    "all weights": lambda client: client.attend(query(), model="plain", need_weights=True),
    "one row": lambda client: client.attend(
        query(), model="plain", need_weights=polyhead.Weights(queries=3, top_k=2), need_output=False
    ),
    "lengths": lambda client: client.attend(query(), model="plain", kv_lengths=[9, 5]),
    "rows": lambda client: list(client.attend_rows(query(), model="plain", rows_per_block=100)),
    "half of the rows": half_read,
    "refused": refused,
}


@pytest.mark.parametrize("make_call", CALLS.values(), ids=CALLS)
def test_a_call_that_has_ended_is_forgotten(client, uncollected, make_call):
    for _ in range(3):
        make_call(client)
    client.server_info()  # the one before has then ended at the server too
    assert uncollected() == []
