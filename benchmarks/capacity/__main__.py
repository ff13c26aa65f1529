"""Computes the calls that cores, machines and a hundred machines answer, from RESULTS.md.

`python -m benchmarks.capacity` writes the tables of docs/capacity.md, which explains them. Flags
compute them for other machines, and then they are printed.
"""

from __future__ import annotations

import argparse

from benchmarks.capacity.capacity import Machine
from benchmarks.capacity.results import Results
from benchmarks.capacity.tables import page_with_tables, tables
from benchmarks.report import DOCS, RESULTS, print_now


def main() -> None:
    """Write the tables into docs/capacity.md, or print them for other machines."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    usual = Machine()
    parser.add_argument("--cores", type=int, default=usual.cores)
    parser.add_argument("--memory-gib", type=float, default=usual.memory_gib)
    parser.add_argument("--gigabits", type=float, default=usual.gigabits)
    parser.add_argument("--machines", type=int, default=100)
    arguments = parser.parse_args()
    machine = Machine(arguments.cores, arguments.memory_gib, arguments.gigabits)
    computed = tables(Results(RESULTS.read_text()), machine, arguments.machines)
    if machine == usual and arguments.machines == 100:
        page = DOCS / "capacity.md"
        page.write_text(page_with_tables(page.read_text(), computed))
        print_now(f"wrote the tables of {page.name}")
    else:
        print_now("\n\n".join(computed.values()))


if __name__ == "__main__":
    main()
