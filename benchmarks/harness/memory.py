"""The growth of a process's memory at its peak, from Linux's /proc."""

from __future__ import annotations

from pathlib import Path

__all__ = ["MemoryGrowth"]


class MemoryGrowth:
    """A process's peak memory above its memory when this object was made.

    Measure each case in a new process, because a process may reuse freed memory without growing.
    """

    def __init__(self, process_id: int | str = "self") -> None:
        self._folder = Path("/proc") / str(process_id)
        (self._folder / "clear_refs").write_text("5")  # resets the peak
        self._start_kib = self._read_kib("VmRSS")

    def peak_mb(self) -> float:
        """Return the growth up to the peak, in 10^6 bytes."""
        return max(0, self._read_kib("VmHWM") - self._start_kib) * 1024 / 1e6

    def _read_kib(self, name: str) -> int:
        for line in (self._folder / "status").read_text().splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split()[1])
        raise OSError(f"{self._folder}/status has no {name}; this needs Linux")
