"""docs/capacity.md has what `python -m benchmarks.capacity` computes from RESULTS.md."""

from __future__ import annotations

import pytest
from benchmarks.capacity.capacity import Machine, capacity
from benchmarks.capacity.results import Results
from benchmarks.capacity.tables import page_with_tables, tables
from benchmarks.capacity.work import WORK
from benchmarks.report import DOCS, RESULTS

RESULT = """
<!-- limits -->
| workload | case | CPU ms |
| w | polyhead | 2.0 |
| x; two workers | {} | reached | >= 1.70 | 1.60 | 9% |
<!-- /limits -->
<!-- balancer -->
| call | MB, both ways | Envoy's CPU ms | server's CPU ms | of the server's |
| 1 x 64 | 1 | 0.5 | 9 | 0 |
| 2 x 64 | 2 | 1.0 | 9 | 0 |
<!-- /balancer -->
""".format("one worker on one CPU: requests/s, the generator's share added")


def test_the_page_has_the_tables_of_the_results():
    computed = tables(Results(RESULTS.read_text()), Machine(), 100)
    page = (DOCS / "capacity.md").read_text()
    assert page == page_with_tables(page, computed), "run python -m benchmarks.capacity"


def test_capacity_is_limited_by_cores_and_network():
    work = WORK[0].__class__("w", "limits", "w | polyhead", 2, 1_000_000, 2_000_000)
    one = capacity(Results(RESULT), work, Machine(cores=10, gigabits=16))
    assert one.core == 500
    assert one.by_cpu == pytest.approx(500 * 10 * 0.7 * 0.8)
    assert one.by_network == pytest.approx(16e9 * 0.7 / 16e6)
    assert (one.calls, one.first) == (one.by_network, "network")
    assert one.envoy_cores == pytest.approx(one.calls * 1.5e-3 / 0.7)  # 3 MB: 1.5 times 2 MB
    assert capacity(Results(RESULT), work, Machine(cores=1)).first == "CPU"


def test_rows_that_are_not_there_are_named():
    with pytest.raises(LookupError, match="0 rows 'v'"):
        Results(RESULT).number("limits", "v", 1)
