"""Runs Triton's load generator on a polyhead model, with calls and over a stream.

`python -m benchmarks.perf_analyzer --program PATH` writes the program's report into
docs/open-inference-protocol.md, which says where to get the program.
"""

from __future__ import annotations

import argparse
import subprocess
from pathlib import Path

from benchmarks.harness.serving import start_server
from benchmarks.report import DOCS, print_now, publish
from benchmarks.repository import MODEL, exported

EMBED_DIM, NUM_HEADS, SEQ_LEN = 64, 4, 16
FLAGS = ["--concurrency-range", "8", "-p", "2000", "-s", "30"]
CASES = {"calls": [], "a stream": ["--streaming"], "batches of 4": ["-b", "4"]}


def main() -> None:
    """Measure, and write the program's report."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--program", type=Path, required=True, help="perf_analyzer")
    program = parser.parse_args().program
    texts = []
    with exported(EMBED_DIM, NUM_HEADS) as model:
        for name, more in CASES.items():
            print_now(f"perf_analyzer: {name}")
            with start_server(model.folder, "--threads", "1") as served:
                arguments = ["-m", MODEL, "-i", "grpc", "-u", served.target, *FLAGS, *more]
                shape = ["--shape", f"query:{SEQ_LEN},{EMBED_DIM}", "--input-data", "zero"]
                completed = subprocess.run(  # noqa: S603 - the user names the program
                    [program, *arguments, *shape], capture_output=True, text=True, check=False
                )
            if completed.returncode:
                raise SystemExit(completed.stdout + completed.stderr)
            report = completed.stdout.partition("Request concurrency")[2]
            report = report.partition("\nInferences/")[0]
            texts.append(f"{name.capitalize()}:\n\n```\nRequest concurrency{report.rstrip()}\n```")
    publish("perf_analyzer", "\n\n".join(texts), DOCS / "open-inference-protocol.md")


if __name__ == "__main__":
    main()
