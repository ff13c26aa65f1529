"""Shows the progress of a long export on stderr: a bar in a terminal, else lines."""

from __future__ import annotations

import sys
from contextlib import contextmanager, suppress
from itertools import count
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["progress"]


@contextmanager
def progress(total: int) -> Iterator[Callable[[str], object]]:
    """Yield a function to call with the name of each of ``total`` models once it is written."""
    if not sys.stderr.isatty():
        numbers = count(1)

        def write_line(name: str) -> None:
            with suppress(OSError):  # a stderr that cannot be written must not end the export
                sys.stderr.write(f"exported {name} ({next(numbers)} of {total})\n")

        yield write_line
        return
    columns = (
        TextColumn("exported"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.description}", markup=False),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=total)
        yield lambda name: bar.update(task, advance=1, description=name)
