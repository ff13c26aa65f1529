"""Makes one run in a new process: `python -m benchmarks.variants.peak FILE VARIANT MODE SEQ_LEN`.

It prints the growth of the process in the run, in megabytes, after the model was loaded.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from benchmarks.blocks import VARIANTS, load_model, prepare_run
from benchmarks.harness.memory import MemoryGrowth
from benchmarks.report import ROOT

__all__ = ["peak_mb"]


def peak_mb(file: Path, variant: str, mode: str, seq_len: int) -> float:
    """Measure a run of a variant's model in a new process; see blocks.prepare_run."""
    command = [
        sys.executable,
        "-m",
        "benchmarks.variants.peak",
        str(file),
        variant,
        mode,
        str(seq_len),
    ]
    completed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)  # noqa: S603 - our own
    return float(completed.stdout)


def main(file: str, name: str, mode: str, seq_len: str) -> None:
    """Measure in this process."""
    [variant] = [variant for variant in VARIANTS if variant.name == name]
    run = prepare_run(load_model(name, Path(file)), variant, mode, int(seq_len))
    growth = MemoryGrowth()
    run()
    sys.stdout.write(f"{growth.peak_mb()}\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
