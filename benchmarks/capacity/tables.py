"""Writes the tables of docs/capacity.md."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from benchmarks.capacity.capacity import SHARE, capacity
from benchmarks.capacity.work import WORK
from benchmarks.report import table

if TYPE_CHECKING:
    from benchmarks.capacity.capacity import Machine
    from benchmarks.capacity.results import Results

__all__ = ["page_with_tables", "tables"]


def tables(results: Results, machine: Machine, machines: int) -> dict[str, str]:
    """Return the tables of docs/capacity.md by their names."""
    return {
        "assumed": _table_of_assumptions(results, machine),
        "calls": _table_of_calls(results, machine),
        "example": _example(results, machine, machines),
        "fleet": _table_of_a_fleet(results, machine, machines),
        "memory": _table_of_memory(results, machine),
    }


def _table_of_assumptions(results: Results, machine: Machine) -> str:
    rows = [
        ["a machine", f"{machine.cores} cores, {machine.memory_gib:g} GiB"],
        ["its network", f"{machine.gigabits:g} Gbit/s each way"],
        ["share of both that calls use", f"{SHARE}"],
        ["what a core gives beside others, of what one alone gives", f"{results.workers_gain():g}"],
    ]
    return table(["", ""], rows, texts=2)


def _table_of_calls(results: Results, machine: Machine) -> str:
    header = ["call", "server's CPU ms", "a core, calls/s", "MB in", "MB out"]
    header += ["by CPU, calls/s", "by network, calls/s", "first used up"]
    rows = []
    for work in WORK:
        one = capacity(results, work, machine)
        sizes = [_number(size / 1e6) for size in (work.bytes_in, work.bytes_out)]
        rates = [_number(one.by_cpu), _number(one.by_network)]
        cost = [f"{one.cpu_ms:g}", _number(one.core)]
        rows.append([work.name, *cost, *sizes, *rates, one.first])
    return table(header, rows)


def _table_of_a_fleet(results: Results, machine: Machine, machines: int) -> str:
    header = ["call", "a machine, calls/s", f"{machines} machines", "machines for 1,000 calls/s"]
    header += ["Gbit/s of the fleet", "Envoy's cores for the fleet"]
    rows = []
    for work in WORK:
        one = capacity(results, work, machine)
        fleet = [_number(one.calls), _number(machines * one.calls)]
        needed = f"{-(-1000 // one.calls):g}"
        load = [_number(machines * one.gigabits), _number(machines * one.envoy_cores)]
        rows.append([work.name, *fleet, needed, *load])
    return table(header, rows)


def _example(results: Results, machine: Machine, machines: int) -> str:
    """Return the arithmetic of one line as text."""
    work = WORK[1]
    one = capacity(results, work, machine)
    gain, size = results.workers_gain(), max(work.bytes_in, work.bytes_out)
    both = (work.bytes_in + work.bytes_out) / 1e6
    fleet = one.calls * machines
    envoy_ms = results.envoy_ms(both)
    steps = (
        ("a core", f"1000 / {one.cpu_ms:g} ms", _calls(one.core)),
        ("by CPU", f"{one.core:,.0f} x {machine.cores} x {SHARE} x {gain:g}", _calls(one.by_cpu)),
        (
            "by network",
            f"{machine.gigabits:g}e9 bits x {SHARE} / (8 x {size:,} bytes)",
            _calls(one.by_network),
        ),
        ("a machine", "the smaller one", _calls(one.calls)),
        (f"{machines} machines", f"{machines} x {one.calls:,.0f}", _calls(fleet)),
        (
            "Envoy",
            f"{fleet:,.0f} x {envoy_ms:.3g} ms / 1000 / {SHARE}",
            f"{machines * one.envoy_cores:,.0f} cores",
        ),
    )
    lines = [f"{name:<14}{how:<42}{result:>16}" for name, how, result in steps]
    return "\n".join(["```", work.name, *lines, "```"])


def _calls(value: float) -> str:
    return f"{value:,.0f} calls/s"


def _table_of_memory(results: Results, machine: Machine) -> str:
    header = ["model", "resident MB of a worker", f"in {machine.memory_gib:g} GiB, one worker"]
    header += [f"{machine.cores} workers, GiB"]
    rows = []
    for model in ("MiniLM", "Llama of random weights"):
        resident = results.number("models-growth", model, 5)
        fit = int(0.75 * machine.memory_gib * 2**30 / (resident * 1e6))
        together = machine.cores * resident * 1e6 / 2**30
        rows.append([model, f"{resident:,.0f}", f"{fit:,} models", _number(together)])
    return table(header, rows)


def _number(value: float) -> str:
    """Format a number with two significant digits, because the figures are not more exact."""
    if value >= 10:
        magnitude = 10 ** (len(str(int(value))) - 2)
        return f"{round(value / magnitude) * magnitude:,}"
    return f"{value:.2g}" if value >= 1e-4 else f"{value:.1e}"


def page_with_tables(page: str, computed: dict[str, str]) -> str:
    """Return the page with these tables between its markers."""
    for name, text in computed.items():
        pattern = rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)"
        page, count = re.subn(pattern, rf"\g<1>{text}\n\g<2>", page, flags=re.DOTALL)
        if count != 1:
            raise LookupError(f"the page has {count} places for the table {name!r}; expected 1")
    return page
