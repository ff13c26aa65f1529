"""How much a process grows at its peak, as Linux tells it."""

from __future__ import annotations

from pathlib import Path

__all__ = ["Growth"]


class Growth:
    """A process's peak above where it stood when this was made.

    Memory that a process has got and given up again, it may hold without growing: measure each
    case in a process of its own.
    """

    def __init__(self, process_id: int | str = "self") -> None:
        self._folder = Path("/proc") / str(process_id)
        (self._folder / "clear_refs").write_text("5")  # the peak counts from here
        self._start_kib = self._read_kib("VmRSS")

    def peak_mb(self) -> float:
        """Growth up to the highest point since, in 10^6 bytes."""
        return max(0, self._read_kib("VmHWM") - self._start_kib) * 1024 / 1e6

    def _read_kib(self, name: str) -> int:
        for line in (self._folder / "status").read_text().splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split()[1])
        raise OSError(f"{self._folder}/status does not tell {name}; this needs Linux")
