"""`polyhead top`."""

from __future__ import annotations

import os
import sys
import time
from argparse import ArgumentTypeError
from typing import TYPE_CHECKING

from polyhead.cli.command import Command
from polyhead.cli.table import as_table

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

    from polyhead.cli.servers.metrics_page import Interval, Model

__all__ = ["COMMAND"]

_VARIABLE = "POLYHEAD_METRICS"
_DEFAULT = "localhost:9464"
_CLEAR = "\x1b[H\x1b[J"
_HEADINGS = (
    "MODEL",
    "VERSION",
    "REQUESTS/S",
    "FAILED/S",
    "TOKENS/S",
    "P50 MS",
    "P99 MS",
    "QUEUE MS",
    "BATCH",
    "FILES MIB",
)
_DESCRIPTION = """\
Show what a server does, model by model, until Ctrl-C. The server needs --metrics-port.

P50 and P99 are times of requests in the server, queue included; QUEUE is the mean time in the
queue, BATCH the mean size of runs. FILES is the size of a model's files, about what its weights
take in memory. All are of the last --interval, and of all workers together.

  polyhead serve --metrics-port 9464
  polyhead top
  polyhead top --metrics host:9464 --once    one table, for scripts
"""


def _parse_address(text: str) -> tuple[str, int]:
    """Parse ``HOST:PORT``."""
    host, _, port = text.rpartition(":")
    if not (host and port.isdecimal() and 0 < int(port) < 2**16):
        raise ArgumentTypeError(f"expected HOST:PORT such as {_DEFAULT}; got {text!r}")
    return host.strip("[]"), int(port)


def _parse_seconds(text: str) -> float:
    """Parse a time of 0.1 to 3600 seconds."""
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0.1 <= seconds <= 3600:
        raise ArgumentTypeError(f"expected seconds from 0.1 to 3600; got {text!r}")
    return seconds


def _add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--metrics",
        metavar="HOST:PORT",
        type=_parse_address,
        default=os.environ.get(_VARIABLE) or _DEFAULT,
        help=f"where the server's metrics are (default: ${_VARIABLE}, or else {_DEFAULT})",
    )
    parser.add_argument(
        "--interval",
        metavar="SECONDS",
        type=_parse_seconds,
        default=2.0,
        help="time that a table is about (default: %(default)g)",
    )
    parser.add_argument("--once", action="store_true", help="print one table, and end")
    parser.add_argument(
        "--timeout",
        metavar="SECONDS",
        type=_parse_seconds,
        default=5.0,
        help="longest time to wait for the metrics (default: %(default)g)",
    )


def _run(arguments: Namespace) -> int:
    from polyhead.cli.servers.metrics_page import Interval, read_page

    host, port = arguments.metrics
    before = read_page(host, port, arguments.timeout)
    clear = _CLEAR if sys.stdout.isatty() and not arguments.once else ""
    while True:
        time.sleep(arguments.interval)
        after = read_page(host, port, arguments.timeout)
        sys.stdout.write(f"{clear}{_format(Interval(before, after))}\n")
        sys.stdout.flush()
        if arguments.once:
            return 0
        before = after


def _format(interval: Interval) -> str:
    rows = [_HEADINGS, *(_row(interval, model) for model in interval.after.models())]
    return f"{_format_server(interval)}\n\n{as_table(rows, str.rjust)}"


def _format_server(interval: Interval) -> str:
    page, total = interval.after, interval.after.total
    workers = {
        labels["worker"] for labels, _ in page.samples["polyhead_runs"] if "worker" in labels
    }
    oldest_ms = page.largest("polyhead_queue_oldest_seconds") * 1e3
    waiting, limit = total("polyhead_queue_requests"), total("polyhead_queue_requests_limit")
    reserved, most = total("polyhead_reserved_bytes"), total("polyhead_reserved_bytes_limit")
    parts = [
        f"{len(workers)} workers" if workers else "1 process",
        f"queue {waiting:.0f} of {limit:.0f}, the oldest {oldest_ms:.0f} ms",
        f"runs {total('polyhead_runs'):.0f} of {total('polyhead_runs_limit'):.0f}",
        f"refused {interval.rate('polyhead_refused_total'):.1f}/s",
        f"reserved {_mib(reserved)} of {_mib(most)} MiB",
        f"memory {_mib(total('process_resident_memory_bytes'))} MiB",
        f"CPU {interval.rate('process_cpu_seconds_total') * 100:.0f} %",
    ]
    return "   ".join(parts)


def _row(interval: Interval, key: Model) -> tuple[str, ...]:
    name, version = key
    model = {"model": name, "version": version}
    answered = interval.rate("polyhead_requests_total", outcome="answered", **model)
    queue_s = interval.rate("polyhead_queue_seconds_total", **model)
    seconds = "polyhead_request_seconds"
    return (
        name,
        version,
        f"{answered:.1f}",
        f"{interval.rate('polyhead_requests_total', outcome='failed', **model):.1f}",
        f"{interval.rate('polyhead_tokens_total', **model):.0f}",
        _ms(interval.quantile(0.5, seconds, **model)),
        _ms(interval.quantile(0.99, seconds, **model)),
        _ms(queue_s / answered if answered else None),
        _number(interval.mean("polyhead_batch_size", **model)),
        # each worker has the same files
        _mib(max(_values(interval, "polyhead_model_file_bytes", model), default=0.0)),
    )


def _values(interval: Interval, name: str, labels: dict[str, str]) -> list[float]:
    samples = interval.after.samples.get(name, ())
    return [value for sample_labels, value in samples if labels.items() <= sample_labels.items()]


def _ms(seconds: float | None) -> str:
    return _number(None if seconds is None else seconds * 1e3)


def _mib(num_bytes: float) -> str:
    return f"{num_bytes / (1 << 20):.1f}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


COMMAND = Command(
    help="show what a server does, model by model",
    description=_DESCRIPTION,
    add_arguments=_add_arguments,
    run=_run,
)
