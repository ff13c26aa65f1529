"""Numbers of processes under the names that the documents promise."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from polyhead_server.engine.statistics import ModelStatistics, RequestTiming, RunTimestamps
from polyhead_server.process.metrics.families import families_of
from polyhead_server.process.metrics.snapshot import ServedModel, Snapshot
from polyhead_server.rpc.call_counts import CallCounts, Refusal
from polyhead_server.scheduling.scheduler import Scheduler

DOCS = Path(__file__).parents[4] / "docs"
OURS = re.compile(r"\b(?:grpc_server|polyhead|process)_[a-z_]+")


def snapshot():
    counts = CallCounts()
    method = counts.add_method("a.Service", "Do", "unary")
    method.handled["CANCELLED"] += 2
    method.handled["RESOURCE_EXHAUSTED"] += 1
    counts.unknown.handled["UNIMPLEMENTED"] += 1
    counts.refused[Refusal("a.Service/Do", "RESOURCE_EXHAUSTED", "OVERLOADED")] += 1
    counts.add_caller("ci")
    statistics = ModelStatistics()
    statistics.add(3, RunTimestamps(1, 1.5, 3.5, 3.75), [RequestTiming(3, 0.5, num_tokens=12)])
    statistics.add(300, RunTimestamps(1, 1, 1, 1), [RequestTiming(300, 0.0)])
    model = ServedModel("m", 2, "CPU", 1000, statistics.totals())
    return Snapshot(os.getpid(), counts, Scheduler(1, 8, 1 << 20).load(), [model], 1)


@pytest.fixture(scope="module")
def samples():
    families = families_of({"1": snapshot(), "2": snapshot()})
    return [sample for family in families for sample in family.samples]


def values(samples, name, **labels):
    found = [s for s in samples if s.name == name and labels.items() <= s.labels.items()]
    return [sample.value for sample in found]


def test_every_series_has_its_worker(samples):
    assert {sample.labels["worker"] for sample in samples} == {"1", "2"}
    keys = [(sample.name, *sorted(sample.labels.items())) for sample in samples]
    assert len(keys) == len(set(keys))


def test_a_server_of_one_process_has_no_workers():
    families = families_of({"": snapshot()})
    assert not any("worker" in s.labels for family in families for s in family.samples)


def test_each_family_is_there_once():
    names = [family.name for family in families_of({"1": snapshot(), "2": snapshot()})]
    assert len(names) == len(set(names))


def test_codes_are_spelled_as_go_spells_them(samples):
    handled = [s.labels["grpc_code"] for s in samples if s.name == "grpc_server_handled_total"]
    assert {"OK", "Canceled", "ResourceExhausted", "Unimplemented"} == set(handled)


def test_batch_sizes_and_phases_add_up(samples):
    one = {"worker": "1", "model": "m", "version": "2"}
    assert values(samples, "polyhead_batch_size_bucket", le="2.0", **one) == [0]
    assert values(samples, "polyhead_batch_size_bucket", le="4.0", **one) == [1]
    assert values(samples, "polyhead_batch_size_bucket", le="+Inf", **one) == [2]
    assert values(samples, "polyhead_compute_seconds_total", phase="infer", **one) == [2.0]
    assert values(samples, "polyhead_tokens_total", **one) == [12]
    assert values(samples, "polyhead_request_seconds_sum", **one) == [3.25]


def documented(text):
    return {re.sub(r"_(bucket|sum|count)$", "", name) for name in OURS.findall(text)}


def test_the_documents_name_the_metrics_that_there_are(samples):
    names = documented("\n".join(sample.name for sample in samples))
    text = (DOCS / "observability.md").read_text()
    # of the process's own only some are in the table
    assert {name for name in names if not name.startswith("process_")} <= documented(text)
    assert documented(text) <= names
