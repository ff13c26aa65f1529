"""Commands that make temporary files remove them when a signal ends the process."""

from __future__ import annotations

import signal
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["exit_on_signals"]


@contextmanager
def exit_on_signals(status: int = 0) -> Iterator[None]:
    """Leave all contexts on SIGTERM, and on SIGHUP, which comes when the terminal is closed.

    By default these signals end a process at once, so that temporary folders stay. What nohup
    ignores stays ignored. ``status``: of the process.
    """

    def leave(*_: object) -> None:
        raise SystemExit(status)

    before = {}
    for name in ("SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)  # Windows has no SIGHUP
        if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
            before[number] = signal.signal(number, leave)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
