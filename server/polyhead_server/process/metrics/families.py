"""Snapshots of processes -> the metrics for Prometheus.

The first metrics have the names and codes of go-grpc-prometheus, so that its dashboards work.
docs/observability.md lists all of them.
"""

from __future__ import annotations

from itertools import accumulate
from typing import TYPE_CHECKING

from prometheus_client import ProcessCollector
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)

from polyhead_server.histogram import BATCH_SIZES, Histogram

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from polyhead_server.process.metrics.snapshot import ServedModel, Snapshot

__all__ = ["families_of"]

_METHOD = ("grpc_type", "grpc_service", "grpc_method")
_MODEL = ("model", "version")
_GO_CODES = {"OK": "OK", "CANCELLED": "Canceled"}
"""Codes that Go does not spell as their words, each with a capital."""


def families_of(snapshots: Mapping[str, Snapshot]) -> Iterator[Metric]:
    """Make the metrics of a server's processes.

    ``snapshots``: by the number of the worker, which becomes a label; "" for a server of one
    process, which has no such label.
    """
    metrics: dict[str, Metric] = {}
    for worker, snapshot in snapshots.items():
        for metric in _of_process(snapshot):
            joined = metrics.setdefault(metric.name, metric)
            if worker:
                for index, sample in enumerate(metric.samples):
                    labels = {**sample.labels, "worker": worker}
                    metric.samples[index] = sample._replace(labels=labels)
            if joined is not metric:
                joined.samples += metric.samples
    yield from metrics.values()


def _of_process(snapshot: Snapshot) -> Iterator[Metric]:
    yield from _of_methods(snapshot)
    yield from _of_requests(snapshot)
    yield from _of_load(snapshot)
    yield from _of_models(snapshot.models)
    yield _gauge(
        "polyhead_models_unavailable",
        "Models of the repository that are not served",
        snapshot.num_unavailable,
    )
    # memory, CPU time, open files: of that process, where the system has a /proc
    yield from ProcessCollector(pid=lambda: snapshot.pid, registry=None).collect()


def _of_methods(snapshot: Snapshot) -> Iterator[Metric]:
    started = CounterMetricFamily("grpc_server_started", "Calls that began", labels=_METHOD)
    handled = CounterMetricFamily(
        "grpc_server_handled", "Calls that ended, by their code", labels=(*_METHOD, "grpc_code")
    )
    received = CounterMetricFamily("grpc_server_msg_received", "Messages received", labels=_METHOD)
    sent = CounterMetricFamily("grpc_server_msg_sent", "Messages sent", labels=_METHOD)
    seconds = HistogramMetricFamily(
        "grpc_server_handling_seconds", "Durations of calls that ended", labels=_METHOD
    )
    for method in (*snapshot.calls.methods.values(), snapshot.calls.unknown):
        labels = (method.kind, method.service, method.method)
        started.add_metric(labels, method.num_started)
        received.add_metric(labels, method.num_received)
        sent.add_metric(labels, method.num_sent)
        for code, count in method.handled.items():
            handled.add_metric((*labels, _go_code(code)), count)
        _add_histogram(seconds, labels, method.seconds)
    yield from (started, handled, received, sent, seconds)


def _of_requests(snapshot: Snapshot) -> Iterator[Metric]:
    refused = CounterMetricFamily(
        "polyhead_refused",
        "Requests that were refused or cancelled, those of streams one by one",
        labels=("grpc_service", "grpc_method", "grpc_code", "reason"),
    )
    for refusal, count in snapshot.calls.refused.items():
        service, _, method = refusal.method.partition("/")
        refused.add_metric((service, method, _go_code(refusal.code), refusal.reason), count)
    yield refused
    callers = CounterMetricFamily(
        "polyhead_caller_calls", "Calls that ended, by the name of their caller", labels=("caller",)
    )
    for caller, count in snapshot.calls.callers.items():
        callers.add_metric((caller,), count)
    yield callers


def _of_load(snapshot: Snapshot) -> Iterator[Metric]:
    load = snapshot.load
    for name, text, value in (
        ("queue_requests", "Requests that wait for their run", load.num_waiting),
        ("queue_requests_limit", "Most requests that may wait", load.max_waiting),
        ("queue_oldest_seconds", "How long the oldest of them has waited", load.oldest_s),
        ("runs", "Runs in worker threads now", load.num_running),
        ("runs_limit", "Most runs at once, not counting short ones", load.max_running),
        ("reserved_bytes", "Bytes accounted for requests that wait or run", load.held_bytes),
        ("reserved_bytes_limit", "Most bytes that may be accounted", load.max_held_bytes),
    ):
        yield _gauge(f"polyhead_{name}", text, value)


def _of_models(models: Iterable[ServedModel]) -> Iterator[Metric]:
    info = GaugeMetricFamily(
        "polyhead_model", "A version that is served: 1", labels=(*_MODEL, "provider")
    )
    size = GaugeMetricFamily("polyhead_model_file_bytes", "Size of a model's files", labels=_MODEL)
    requests = CounterMetricFamily(
        "polyhead_requests",
        "Requests that ended: answered, or failed while they ran",
        labels=(*_MODEL, "outcome"),
    )
    seconds = HistogramMetricFamily(
        "polyhead_request_seconds",
        "Time of answered requests from their arrival in the queue to their response",
        labels=_MODEL,
    )
    queue = CounterMetricFamily(
        "polyhead_queue_seconds", "Time that answered requests waited for their runs", labels=_MODEL
    )
    compute = CounterMetricFamily(
        "polyhead_compute_seconds",
        "Time of runs: reading inputs, the graph, writing responses",
        labels=(*_MODEL, "phase"),
    )
    tokens = CounterMetricFamily("polyhead_tokens", "Tokens of answered requests", labels=_MODEL)
    batches = HistogramMetricFamily("polyhead_batch_size", "Batch sizes of runs", labels=_MODEL)
    for model in models:
        labels, totals = (model.name, str(model.version)), model.totals
        info.add_metric((*labels, model.provider), 1)
        size.add_metric(labels, model.file_bytes)
        requests.add_metric((*labels, "answered"), totals.success.count)
        requests.add_metric((*labels, "failed"), totals.fail.count)
        _add_histogram(seconds, labels, totals.seconds)
        queue.add_metric(labels, totals.queue.seconds)
        sizes = Histogram(BATCH_SIZES)
        phases = dict.fromkeys(("input", "infer", "output"), 0.0)
        for batch_size, runs in totals.batches.items():
            sizes.add(batch_size, runs.count)
            phases["input"] += runs.input_s
            phases["infer"] += runs.infer_s
            phases["output"] += runs.output_s
        _add_histogram(batches, labels, sizes)
        for phase, phase_s in phases.items():
            compute.add_metric((*labels, phase), phase_s)
        tokens.add_metric(labels, totals.tokens)
    yield from (info, size, requests, seconds, queue, compute, tokens, batches)


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(name, text, value=value)


def _add_histogram(
    family: HistogramMetricFamily, labels: tuple[str, ...], histogram: Histogram
) -> None:
    bounds = (*map(str, histogram.bounds), "+Inf")
    buckets = zip(bounds, accumulate(histogram.counts), strict=True)
    family.add_metric(labels, buckets=list(buckets), sum_value=histogram.total)


def _go_code(name: str) -> str:
    """Spell a code as Go does, such as InvalidArgument."""
    return _GO_CODES.get(name) or "".join(word.capitalize() for word in name.split("_"))
