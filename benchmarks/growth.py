"""Measures the growth of a request's cost with its length, batch size, and number in flight.

`python -m benchmarks.growth` draws plots/ and writes a table into RESULTS.md. `--quick` measures a
few points to show that the benchmark works, and writes nothing.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING

from benchmarks.blocks import EMBED_DIM, NUM_HEADS, random_embeddings
from benchmarks.harness.calls import attend_call, serialize_request
from benchmarks.harness.cases import Measurement, measure_in_turns, median_of, ratios
from benchmarks.harness.generators import GENERATOR, repeat_call
from benchmarks.harness.in_process import run_in_process
from benchmarks.harness.serving import ServerProcess, start_server
from benchmarks.report import RESULTS, ROOT, print_now, publish, table
from benchmarks.repository import MODEL, Exported, exported
from polyhead._viz.matplotlib_import import import_matplotlib

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

PLOTS = ROOT / "benchmarks" / "plots"
SERVER, IN_PROCESS = "server", "in process"
NOTE = """\
A block of {heads} heads and embeddings of {width}, outputs only; CPU ms of the server per request,
compared with `session.run` on the same arrays in process; one thread, medians of {rounds} rounds in
which both take turns; load from {generator}."""


@dataclass(frozen=True)
class Point:
    """A request, and the number of requests in flight."""

    seq_len: int
    batch_size: int = 1
    in_flight: int = 1


@dataclass(frozen=True)
class Series:
    """Points along one axis."""

    name: str
    title: str
    axis: str
    """The field of Point that grows."""
    points: Sequence[Point]


@dataclass(frozen=True)
class Measured:
    """The measurements of a point, on a server and in process."""

    point: Point
    measurements: dict[str, list[Measurement]]

    def cpu_ms(self, case: str) -> float:
        """CPU time per request."""
        return median_of(self.measurements[case], "cpu_ms")

    @property
    def ratio(self) -> float:
        """The server's CPU time relative to the CPU time in process."""
        return median(ratios(self.measurements[SERVER], self.measurements[IN_PROCESS], "cpu_ms"))


ALL_SERIES = (
    Series(
        "sequence-length",
        "one sequence, one request in flight",
        "seq_len",
        [Point(n) for n in (1, 4, 16, 64, 128, 256, 512, 1024)],
    ),
    Series(
        "batch-size",
        "sequences of 16 tokens, one request in flight",
        "batch_size",
        [Point(16, n) for n in (1, 2, 4, 8, 16, 32, 64)],
    ),
    Series(
        "concurrency",
        "single tokens",
        "in_flight",
        [Point(1, 1, n) for n in (1, 2, 4, 8, 16, 32, 64)],
    ),
)


def main() -> None:
    """Measure, draw, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="measure little, and write nothing")
    is_quick = parser.parse_args().quick
    rounds, seconds = (1, 0.2) if is_quick else (3, 1.0)
    texts = [
        NOTE.format(heads=NUM_HEADS, width=EMBED_DIM, rounds=rounds, generator=GENERATOR),
    ]
    with (
        exported(EMBED_DIM, NUM_HEADS) as model,
        start_server(model.folder, "--threads", "1") as served,
    ):
        for series in ALL_SERIES:
            print_now(f"growth: {series.name}")
            points = series.points[:: 3 if is_quick else 1]
            measured = [_measure(model, served, point, rounds, seconds) for point in points]
            file = PLOTS / f"{series.name}.png"
            texts.append(f"![{series.title}](plots/{file.name})\n\n{_table(series, measured)}")
            if not is_quick:
                _draw(series, measured, file)
    text = "\n\n".join(texts)
    print_now(text)
    if not is_quick:
        publish("growth", f"## Growth\n\n{text}", RESULTS)


def _measure(
    model: Exported, served: ServerProcess, point: Point, rounds: int, seconds: float
) -> Measured:
    query = random_embeddings(point.batch_size * point.seq_len, EMBED_DIM)
    query = query.reshape(point.batch_size, point.seq_len, EMBED_DIM)
    call = attend_call(served, [serialize_request(query, MODEL)])
    cases = {
        SERVER: repeat_call(call, point.in_flight),
        IN_PROCESS: run_in_process(model.file, [query]),
    }
    return Measured(point, measure_in_turns(cases, rounds, seconds))


def _table(series: Series, measured: Sequence[Measured]) -> str:
    header = [series.axis, "server's CPU ms", "in process", "ratio", "requests/s", "p50 ms"]
    rows = [
        [
            str(getattr(result.point, series.axis)),
            f"{result.cpu_ms(SERVER):.3g}",
            f"{result.cpu_ms(IN_PROCESS):.3g}",
            f"{result.ratio:.2f}",
            f"{median_of(result.measurements[SERVER], 'rate'):.0f}",
            f"{median_of(result.measurements[SERVER], 'p50_ms'):.3g}",
        ]
        for result in measured
    ]
    return table(header, rows, texts=0)


def _draw(series: Series, measured: Sequence[Measured], file: Path) -> None:
    """Draw the cost on the left, and the ratio on the right."""
    import_matplotlib()
    import matplotlib as mpl
    from matplotlib.figure import Figure
    from matplotlib.ticker import NullLocator, ScalarFormatter

    numbers = [getattr(result.point, series.axis) for result in measured]
    with mpl.rc_context({"axes.spines.top": False, "axes.spines.right": False, "font.size": 9}):
        figure = Figure(figsize=(8, 3), layout="constrained")
        cost, ratio = figure.subplots(1, 2)
        for case, marker in ((SERVER, "o"), (IN_PROCESS, "s")):
            cost.plot(
                numbers, [result.cpu_ms(case) for result in measured], marker=marker, label=case
            )
        cost.set_yscale("log")
        cost.set_ylabel("CPU ms a request")
        cost.legend(frameon=False)
        ratio.plot(numbers, [result.ratio for result in measured], marker="o", color="black")
        ratio.axhline(1.0, color="grey", linestyle=":")
        ratio.set_ylim(bottom=0)
        ratio.set_ylabel("server, relative to in process")
        for axes in (cost, ratio):
            axes.set_xscale("log", base=2)
            axes.set_xticks(numbers)
            axes.xaxis.set_major_formatter(ScalarFormatter())
            axes.xaxis.set_minor_locator(NullLocator())
            axes.set_xlabel(series.axis)
        figure.suptitle(f"{series.title}; {NUM_HEADS} heads, embeddings of {EMBED_DIM}")
        file.parent.mkdir(exist_ok=True)
        # no version in the file, so that it changes with the measurements only
        figure.savefig(file, dpi=90, metadata={"Software": None})


if __name__ == "__main__":
    main()
