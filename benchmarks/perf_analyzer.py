"""Triton's load generator on a polyhead model, in calls and over a stream.

`python -m benchmarks.perf_analyzer --program PATH` writes what it prints into
docs/open-inference-protocol.md, which says where the program is to be had.
"""

from __future__ import annotations

import argparse
import subprocess
from pathlib import Path

from benchmarks.harness.serving import serving
from benchmarks.report import DOCS, publish, say
from benchmarks.repository import MODEL, exported

EMBED_DIM, NUM_HEADS, SEQ_LEN = 64, 4, 16
LOAD = ["--concurrency-range", "8", "-p", "2000", "-s", "30"]
CASES = {"calls": [], "a stream": ["--streaming"], "batches of 4": ["-b", "4"]}


def main() -> None:
    """Measure, and write what the program says."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--program", type=Path, required=True, help="perf_analyzer")
    program = parser.parse_args().program
    texts = []
    with exported(EMBED_DIM, NUM_HEADS) as model:
        for name, more in CASES.items():
            say(f"perf_analyzer: {name}")
            with serving(model.folder, "--threads", "1") as served:
                arguments = ["-m", MODEL, "-i", "grpc", "-u", served.target, *LOAD, *more]
                shape = ["--shape", f"query:{SEQ_LEN},{EMBED_DIM}", "--input-data", "zero"]
                done = subprocess.run(  # noqa: S603 - which program, the user says
                    [program, *arguments, *shape], capture_output=True, text=True, check=False
                )
            if done.returncode:
                raise SystemExit(done.stdout + done.stderr)
            report = done.stdout.partition("Request concurrency")[2].partition("\nInferences/")[0]
            texts.append(f"{name.capitalize()}:\n\n```\nRequest concurrency{report.rstrip()}\n```")
    publish("perf_analyzer", "\n\n".join(texts), DOCS / "open-inference-protocol.md")


if __name__ == "__main__":
    main()
