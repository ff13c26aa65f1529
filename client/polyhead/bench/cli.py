"""The arguments of `polyhead bench`."""

from __future__ import annotations

import math
import re
from argparse import ArgumentTypeError
from typing import TYPE_CHECKING

from polyhead.bench.lengths import parse_lengths
from polyhead.cli.command import Command
from polyhead.cli.shared_arguments import add_server_arguments, parse_indices

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace, _ArgumentGroup
    from collections.abc import Callable

__all__ = ["COMMAND"]

_DESCRIPTION = """\
Load a server, and measure throughput and latency.

Without --rate the loop is closed: --concurrency callers each await a response before they send
again. That shows the highest throughput, but its latencies flatter a slow server, because waiting
callers send nothing. With --rate the loop is open: requests are sent when they are due, as by
independent users, and latency counts from the due time, however late a request is sent.

  polyhead bench
  polyhead bench --model bert --tokens 16,32,128 --concurrency 64 --processes 2
  polyhead bench --model bert --rate 200 --duration 30 --plot latency.png
  polyhead bench --model bert --rate 200 --tokens 4..256 --json
  polyhead bench --model bert --find-max --slo-p99 50ms

--find-max doubles the rate until p99, from when requests were due, is beyond --slo-p99 or a request
fails. It then bisects, and verifies the rate it found with two further runs.

The exit status is 1 if nothing was answered or no rate was found, and 130 after Ctrl-C, which ends
a run early and reports what was measured. The documentation explains every figure.
"""
_DTYPES = ("float32", "float16", "float64")


def _add_arguments(parser: ArgumentParser) -> None:
    add_server_arguments(parser, timeout_s=10)
    parser.add_argument(
        "--transport",
        choices=("unary", "stream"),
        default="unary",
        help="one call for each request, or all requests over a stream (default: %(default)s)",
    )
    _add_count(parser, "--connections", "connections that each process opens", default=1)
    _add_request_arguments(parser)
    _add_load_arguments(parser)
    _add_search_arguments(parser)
    report = parser.add_argument_group("report")
    report.add_argument("--json", action="store_true", help="print one JSON object")
    report.add_argument("--plot", metavar="FILE.png", help="draw latencies as a PNG file")


def _add_request_arguments(parser: ArgumentParser) -> None:
    group = parser.add_argument_group("requests")
    group.add_argument("--model", metavar="NAME", help="which model (default: the only one)")
    _add_count(group, "--model-version", "which version of the model (default: the newest)")
    group.add_argument(
        "--tokens",
        metavar="N",
        type=_lengths,
        default="16",
        help="length of a sequence; 4..256 for all lengths between, 16,32,128 for equal shares "
        "(default: %(default)s)",
    )
    _add_count(group, "--batch-size", "sequences in a request", default=1)
    group.add_argument(
        "--dtype",
        choices=_DTYPES,
        help="dtype of the embeddings (default: float32, or float16 for a float16 model)",
    )
    group.add_argument("--weights", action="store_true", help="request all attention weights")
    group.add_argument(
        "--heads", metavar="0,2", type=parse_indices, help="request the weights of these heads"
    )
    group.add_argument(
        "--top-k", metavar="K", type=_count, help="request each row's K largest weights"
    )


def _add_load_arguments(parser: ArgumentParser) -> None:
    group = parser.add_argument_group("load")
    loop = group.add_mutually_exclusive_group()
    _add_count(loop, "--concurrency", "closed loop: requests in flight at any time (default: 16)")
    loop.add_argument("--rate", metavar="R", type=_positive, help="open loop: requests per second")
    group.add_argument(
        "--arrivals",
        choices=("poisson", "constant"),
        help="open loop: random as from independent users, or evenly spaced (default: poisson)",
    )
    _add_count(
        group,
        "--max-in-flight",
        "open loop: most requests in flight; others wait, which counts as latency (default: 1024)",
    )
    much = group.add_mutually_exclusive_group()
    much.add_argument(
        "--duration",
        metavar="SECONDS",
        type=_positive,
        help="how long to measure (default: 10; 5 for each step of --find-max)",
    )
    _add_count(much, "--requests", "how many requests to measure")
    group.add_argument(
        "--warmup",
        metavar="SECONDS",
        type=_not_negative,
        default=1.0,
        help="unmeasured load before the measurement (default: %(default)g)",
    )
    _add_count(
        group,
        "--processes",
        "processes that share the load; one sends a few thousand requests a second",
        default=1,
    )
    group.add_argument(
        "--seed",
        metavar="S",
        type=_whole,
        default=0,
        help="open loop: seed of the random due times (default: %(default)s)",
    )


def _add_search_arguments(parser: ArgumentParser) -> None:
    group = parser.add_argument_group("search")
    group.add_argument(
        "--find-max",
        action="store_true",
        help="find the highest rate within --slo-p99, starting at --rate",
    )
    group.add_argument(
        "--slo-p99", metavar="50ms", type=_duration, help="longest p99 latency, as 50ms or 0.2s"
    )
    group.add_argument(
        "--precision",
        metavar="PERCENT",
        type=_percent,
        help="precision of the rate found (default: 5)",
    )


def _add_count(
    group: ArgumentParser | _ArgumentGroup, flag: str, text: str, default: int | None = None
) -> None:
    """Declare a flag that takes a whole number from 1. ``text``: its help, without the default."""
    suffix = "" if default is None else " (default: %(default)s)"
    group.add_argument(flag, metavar="N", type=_count, default=default, help=text + suffix)


def _number_parser(expected: str, is_valid: Callable[[float], bool]) -> Callable[[str], float]:
    """Make a parser of finite numbers."""

    def parse(text: str) -> float:
        try:
            number = float(text)
        except ValueError:
            number = math.nan
        if not (math.isfinite(number) and is_valid(number)):
            raise ArgumentTypeError(f"expected {expected}; got {text!r}")
        return number

    return parse


_positive = _number_parser("a number above 0", lambda number: number > 0)
_not_negative = _number_parser("a number from 0", lambda number: number >= 0)
_percent = _number_parser("a percentage from 0.1 to 50", lambda number: 0.1 <= number <= 50)


def _count(text: str) -> int:
    if not (text.isdecimal() and int(text)):
        raise ArgumentTypeError(f"expected a whole number from 1; got {text!r}")
    return int(text)


def _whole(text: str) -> int:
    if not text.isdecimal():
        raise ArgumentTypeError(f"expected a whole number from 0; got {text!r}")
    return int(text)


def _lengths(text: str) -> tuple[int, ...]:
    try:
        return parse_lengths(text)
    except ValueError as error:
        raise ArgumentTypeError(str(error)) from None


def _duration(text: str) -> float:
    """Parse ``50ms`` or ``0.2s`` into seconds."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)(ms|s)", text)
    seconds = float(match[1]) / (1000 if match[2] == "ms" else 1) if match else 0.0
    if not seconds:
        raise ArgumentTypeError(f"expected a time such as 50ms or 0.2s; got {text!r}")
    return seconds


def _run(arguments: Namespace) -> int:
    from polyhead.bench.command import run_bench

    return run_bench(arguments)


COMMAND = Command(
    help="load a server, and measure throughput and latency",
    description=_DESCRIPTION,
    documentation="docs/bench.md",
    add_arguments=_add_arguments,
    run=_run,
)
