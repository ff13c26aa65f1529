"""How the cost of a request grows: with its length, its batch, and with what else is in flight.

`python -m benchmarks.growth` draws plots/ and writes a table into RESULTS.md; with `--quick` it
measures a little of it, writes nothing, and so shows that it works.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator, ScalarFormatter

from benchmarks.blocks import EMBED_DIM, NUM_HEADS, random_embeddings
from benchmarks.harness.calls import attend_bytes, attend_call
from benchmarks.harness.cases import Load, loads_in_turns, middle, ratios
from benchmarks.harness.generators import GENERATOR, repeat
from benchmarks.harness.in_process import alone
from benchmarks.harness.serving import Served, serving
from benchmarks.report import RESULTS, ROOT, publish, say, table
from benchmarks.repository import MODEL, Exported, exported

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

PLOTS = ROOT / "benchmarks" / "plots"
SERVER, ALONE = "server", "in process"
NOTE = """\
A block of {heads} heads and embeddings of {width}, outputs only; CPU ms of the server, a request,
beside `session.run` on the same arrays in process; one thread, medians of {rounds} rounds in which
both take turns; load from {generator}."""


@dataclass(frozen=True)
class Point:
    """A request, and how many are in flight."""

    seq_len: int
    batch_size: int = 1
    in_flight: int = 1


@dataclass(frozen=True)
class Growth:
    """Points along one axis, each with what it took."""

    name: str
    title: str
    axis: str
    """Name of the field of Point that grows."""
    points: Sequence[Point]


@dataclass(frozen=True)
class Measured:
    """A point, and what it took on a server and without one."""

    point: Point
    loads: dict[str, list[Load]]

    def cpu_ms(self, case: str) -> float:
        """CPU time of a request."""
        return middle(self.loads[case], "cpu_ms")

    @property
    def ratio(self) -> float:
        """The server's CPU time relative to that in process."""
        return median(ratios(self.loads[SERVER], self.loads[ALONE], "cpu_ms"))


GROWTHS = (
    Growth(
        "sequence-length",
        "one sequence, one request in flight",
        "seq_len",
        [Point(n) for n in (1, 4, 16, 64, 128, 256, 512, 1024)],
    ),
    Growth(
        "batch-size",
        "sequences of 16 tokens, one request in flight",
        "batch_size",
        [Point(16, n) for n in (1, 2, 4, 8, 16, 32, 64)],
    ),
    Growth(
        "concurrency",
        "single tokens",
        "in_flight",
        [Point(1, 1, n) for n in (1, 2, 4, 8, 16, 32, 64)],
    ),
)


def main() -> None:
    """Measure, draw, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a few points; nothing is written")
    is_quick = parser.parse_args().quick
    rounds, seconds = (1, 0.2) if is_quick else (3, 1.0)
    texts = [
        NOTE.format(heads=NUM_HEADS, width=EMBED_DIM, rounds=rounds, generator=GENERATOR),
    ]
    with exported(EMBED_DIM, NUM_HEADS) as model, serving(model.folder, "--threads", "1") as served:
        for growth in GROWTHS:
            say(f"growth: {growth.name}")
            points = growth.points[:: 3 if is_quick else 1]
            measured = [_measure(model, served, point, rounds, seconds) for point in points]
            file = PLOTS / f"{growth.name}.png"
            texts.append(f"![{growth.title}](plots/{file.name})\n\n{_table(growth, measured)}")
            if not is_quick:
                _draw(growth, measured, file)
    text = "\n\n".join(texts)
    say(text)
    if not is_quick:
        publish("growth", f"## Growth\n\n{text}", RESULTS)


def _measure(
    model: Exported, served: Served, point: Point, rounds: int, seconds: float
) -> Measured:
    query = random_embeddings(point.batch_size * point.seq_len, EMBED_DIM)
    query = query.reshape(point.batch_size, point.seq_len, EMBED_DIM)
    call = attend_call(served, [attend_bytes(query, MODEL)])
    cases = {SERVER: repeat(call, point.in_flight), ALONE: alone(model.file, [query])}
    return Measured(point, loads_in_turns(cases, rounds, seconds))


def _table(growth: Growth, measured: Sequence[Measured]) -> str:
    header = [growth.axis, "server's CPU ms", "in process", "ratio", "requests/s", "p50 ms"]
    rows = [
        [
            str(getattr(each.point, growth.axis)),
            f"{each.cpu_ms(SERVER):.3g}",
            f"{each.cpu_ms(ALONE):.3g}",
            f"{each.ratio:.2f}",
            f"{middle(each.loads[SERVER], 'rate'):.0f}",
            f"{middle(each.loads[SERVER], 'p50_ms'):.3g}",
        ]
        for each in measured
    ]
    return table(header, rows, texts=0)


def _draw(growth: Growth, measured: Sequence[Measured], file: Path) -> None:
    """Draw the cost, and beside it the ratio."""
    numbers = [getattr(each.point, growth.axis) for each in measured]
    with mpl.rc_context({"axes.spines.top": False, "axes.spines.right": False, "font.size": 9}):
        figure = Figure(figsize=(8, 3), layout="constrained")
        cost, ratio = figure.subplots(1, 2)
        for case, marker in ((SERVER, "o"), (ALONE, "s")):
            cost.plot(numbers, [each.cpu_ms(case) for each in measured], marker=marker, label=case)
        cost.set_yscale("log")
        cost.set_ylabel("CPU ms a request")
        cost.legend(frameon=False)
        ratio.plot(numbers, [each.ratio for each in measured], marker="o", color="black")
        ratio.axhline(1.0, color="grey", linestyle=":")
        ratio.set_ylim(bottom=0)
        ratio.set_ylabel("server, relative to in process")
        for axes in (cost, ratio):
            axes.set_xscale("log", base=2)
            axes.set_xticks(numbers)
            axes.xaxis.set_major_formatter(ScalarFormatter())
            axes.xaxis.set_minor_locator(NullLocator())
            axes.set_xlabel(growth.axis)
        figure.suptitle(f"{growth.title}; {NUM_HEADS} heads, embeddings of {EMBED_DIM}")
        file.parent.mkdir(exist_ok=True)
        # no versions in the file: it changes with what is measured alone
        figure.savefig(file, dpi=90, metadata={"Software": None})


if __name__ == "__main__":
    main()
