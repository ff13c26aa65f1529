"""Progress of a run on stderr: a bar if stderr is a terminal and rich is installed."""

from __future__ import annotations

import sys
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Display", "show_progress"]


class Display(Protocol):
    """Shows progress."""

    def update(self, share: float, text: str) -> None:
        """Show which share of the run is over, from 0 to 1, with a text."""

    def line(self, text: str) -> None:
        """Print a line that stays."""


class _Lines:
    """Writes lines only, where there is no terminal."""

    def update(self, share: float, text: str) -> None:
        pass

    def line(self, text: str) -> None:
        with suppress(OSError):  # a stderr that cannot be written must not end the run
            sys.stderr.write(f"{text}\n")


@contextmanager
def show_progress() -> Iterator[Display]:
    """Show progress while the context lasts."""
    if not sys.stderr.isatty() or find_spec("rich") is None:
        yield _Lines()
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn

    console = Console(stderr=True)
    columns = (BarColumn(), TextColumn("{task.description}", markup=False))

    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("", total=1.0)

        class _Bar:
            def update(self, share: float, text: str) -> None:
                bar.update(task, completed=min(share, 1.0), description=text)

            def line(self, text: str) -> None:
                console.print(text, markup=False, highlight=False, soft_wrap=True)

        yield _Bar()
