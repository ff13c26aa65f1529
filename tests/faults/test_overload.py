"""More calls than the server can answer: as many as before are answered, others refused at once."""

from __future__ import annotations

from functools import partial
from statistics import median

import pytest
from benchmarks.harness.calls import ATTEND, serialize_request
from benchmarks.overload.connection import Connection
from benchmarks.overload.load import apply_load
from liveness import QUERY, survives
from serving import serving

pytestmark = pytest.mark.faults

OK, DROPPED, OVERLOADED, REFUSED_STREAM = "0", "1", "8", "reset, 7"


@pytest.fixture(scope="module")
def server():
    with serving("--threads", 1) as served:
        yield served


def test_three_times_the_calls_that_can_be_answered(server):
    request = serialize_request(QUERY, "river-bank")
    connect = partial(Connection, server.address, ATTEND, request)
    with survives(server):
        usual = apply_load(connect, 32, None, warm_up_s=1, seconds=2, max_open=1)
        loaded = apply_load(connect, 32, 3 * usual.goodput, warm_up_s=2, seconds=4)
    print(f"{usual.goodput:.0f} and {loaded.goodput:.0f} answers a second, {loaded.counts}")
    print(f"an answer takes {median(loaded.ok_ms):.0f} ms, a refusal {median(loaded.refused_ms)}")
    assert set(loaded.counts) <= {OK, DROPPED, OVERLOADED, REFUSED_STREAM}
    # 0.37 to 0.89 measured: which calls gRPC drops differs from run to run
    assert loaded.goodput > 0.3 * usual.goodput
    assert median(loaded.refused_ms) < 100
    assert max(loaded.ok_ms) < 5000
