"""Reads figures from RESULTS.md."""

from __future__ import annotations

import re

import numpy as np

__all__ = ["Results"]


class Results:
    """The figures of RESULTS.md."""

    def __init__(self, text: str) -> None:
        self._text = text

    def number(self, section: str, row: str, column: int) -> float:
        """Return the first number in a column of the row with this begin.

        Raises LookupError if there is not exactly one such row.
        """
        lines = [line for line in self._lines(section) if line.startswith(f"| {row} |")]
        rows = [line.strip("| ").split(" | ") for line in lines]
        found = [cells for cells in rows if len(cells) > column]
        if len(found) != 1:
            raise LookupError(f"RESULTS.md has {len(found)} rows {row!r} in {section}; expected 1")
        cell = found[0][column]
        return float(cell.partition(" ")[0].rstrip("%").replace(",", ""))

    def envoy_ms(self, megabytes: float) -> float:
        """Return Envoy's CPU time for a call whose request and response take this many MB.

        It is interpolated between the measured sizes, and proportional to the size beyond them.
        """
        rows = [
            [float(cell) for cell in line.strip("| ").split(" | ")[1:]]
            for line in self._lines("balancer")
            if re.match(r"\| \d", line)
        ]
        sizes, costs = [row[0] for row in rows], [row[1] for row in rows]
        return float(np.interp(megabytes, sizes, costs)) * max(1.0, megabytes / sizes[-1])

    def workers_gain(self) -> float:
        """Return the gain of a second worker, as a fraction of a second core."""
        row = (
            r"two workers \| one worker on one CPU: requests/s, the generator's share added \|.*\| "
        )
        found = re.search(row + r"([\d.]+) \| \d+% \|", self._text)
        if found is None:
            raise LookupError("RESULTS.md has no row of two workers")
        return float(found[1]) / 2

    def _lines(self, section: str) -> list[str]:
        body = self._text.partition(f"<!-- {section} -->")[2].partition(f"<!-- /{section} -->")[0]
        return body.splitlines()
