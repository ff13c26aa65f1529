"""Measures size, speed and error of blocks in float32, float16 and int8.

`python -m benchmarks.precisions` writes its tables into RESULTS.md and docs/precision.md. `--quick`
measures small sizes to show that the benchmark works, and writes nothing.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.blocks import HEAD_DIM, load_model, make_inputs
from benchmarks.harness.timing import CaseTimes, time_in_turns
from benchmarks.machine import vector_instructions
from benchmarks.report import DOCS, RESULTS, print_now, publish, table
from polyhead_models.config import PRECISIONS, AttentionConfig
from polyhead_models.export.precision import with_precision
from polyhead_models.graph import build_model
from polyhead_models.random_block import random_block
from polyhead_models.store import write_model
from polyhead_server.engine.runs.attention_run import AttentionRun

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from polyhead_server.call import AttentionInputs
    from polyhead_server.engine.model import Model

EXACT = PRECISIONS[0]
NOTE = """\
Blocks with random weights and heads of 64, one sequence, one thread on the CPU, which has
{instructions}. Times are CPU milliseconds, medians of {rounds} rounds in which the three precisions
take turns. Errors are relative to float32's output. The stated error is the one that the exporter
measured and that the model's description contains; the measured error is that of {tokens} other
tokens."""


@dataclass
class Measured:
    """The measurements of one block."""

    embed_dim: int
    precision: str
    model: Model
    file_mb: float
    stated: float
    error: float = 0.0
    times: dict[int, CaseTimes] = field(default_factory=dict)
    """Times by number of tokens."""


def main() -> None:
    """Measure, and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--quick", action="store_true", help="measure small sizes, and write nothing"
    )
    is_quick = parser.parse_args().quick
    widths, lengths, rounds = [384, 768, 2048], [16, 128, 512], 5
    if is_quick:
        widths, lengths, rounds = [128, 384], [16, 64], 2
    results = []
    with TemporaryDirectory() as folder:
        for embed_dim in widths:
            print_now(f"precisions: {embed_dim} wide")
            blocks = _make(Path(folder), embed_dim)
            _compare(blocks, lengths[-1])
            for seq_len in lengths:
                _time(blocks, seq_len, rounds)
            results += blocks
    note = NOTE.format(instructions=vector_instructions(), rounds=rounds, tokens=lengths[-1])
    short = f"{note}\n\n{_short_table(results, lengths)}"
    full = f"{short}\n\n{_full_table(results, lengths)}"
    print_now(short)
    if not is_quick:
        publish("precisions", f"## Precisions\n\n{full}", RESULTS)
        publish("precisions", short, DOCS / "precision.md")


def _make(folder: Path, embed_dim: int) -> list[Measured]:
    config = AttentionConfig(embed_dim=embed_dim, num_heads=embed_dim // HEAD_DIM)
    exact = random_block(config, seed=0)
    made = []
    for precision in PRECISIONS:
        block = with_precision(exact, precision)
        name = f"{precision}-{embed_dim}"
        file = write_model(folder, name, build_model(block))
        size, stated = file.stat().st_size, block.provenance.precision_error
        made.append(Measured(embed_dim, precision, load_model(name, file), size / 1e6, stated))
    return made


def _compare(blocks: Sequence[Measured], seq_len: int) -> None:
    """Measure the errors relative to float32's output."""
    outputs = [_output(measured.model, seq_len) for measured in blocks]
    for measured, output in zip(blocks, outputs, strict=True):
        difference = np.linalg.norm(output - outputs[0])
        measured.error = float(difference / np.linalg.norm(outputs[0]))


def _output(model: Model, seq_len: int) -> NDArray[np.float64]:
    output = _run(model, make_inputs(model.config, seq_len, seq_len))
    assert output is not None
    return output.astype(np.float64)


def _time(blocks: Sequence[Measured], seq_len: int, rounds: int) -> None:
    cases = {
        measured.precision: partial(
            _run, measured.model, make_inputs(measured.model.config, seq_len, seq_len)
        )
        for measured in blocks
    }
    samples = time_in_turns(cases, rounds)
    for measured in blocks:
        measured.times[seq_len] = samples[measured.precision]


def _run(model: Model, inputs: AttentionInputs) -> NDArray[np.float32] | None:
    return AttentionRun.on(model, inputs).everything().output


def _short_table(results: Sequence[Measured], lengths: Sequence[int]) -> str:
    header = ["precision", "embed_dim", "file MB", "stated error", "measured error"]
    header += [f"ms at {seq_len}" for seq_len in lengths]
    header += [f"float32's at {seq_len}" for seq_len in lengths]
    exact = {measured.embed_dim: measured for measured in results if _is_exact(measured)}
    rows = []
    for measured in results:
        ratios = (measured.times[n].ratio_to(exact[measured.embed_dim].times[n]) for n in lengths)
        rows.append(
            [
                measured.precision,
                str(measured.embed_dim),
                f"{measured.file_mb:.2f}",
                _error(measured, measured.stated),
                _error(measured, measured.error),
                *(f"{measured.times[n].cpu_ms:.3g}" for n in lengths),
                *("-" if _is_exact(measured) else f"x {ratio:.2f}" for ratio in ratios),
            ]
        )
    return table(header, rows)


def _full_table(results: Sequence[Measured], lengths: Sequence[int]) -> str:
    header = ["precision", "embed_dim", "tokens", "CPU ms", "wall ms", "spread", "of float32"]
    exact = {measured.embed_dim: measured for measured in results if _is_exact(measured)}
    rows = [
        [
            measured.precision,
            str(measured.embed_dim),
            str(seq_len),
            f"{measured.times[seq_len].cpu_ms:.3g}",
            f"{measured.times[seq_len].wall_ms:.3g}",
            f"{measured.times[seq_len].spread:.0%}",
            f"{measured.times[seq_len].ratio_to(exact[measured.embed_dim].times[seq_len]):.2f}",
        ]
        for measured in results
        for seq_len in lengths
    ]
    return table(header, rows)


def _is_exact(measured: Measured) -> bool:
    return measured.precision == EXACT


def _error(measured: Measured, error: float) -> str:
    return "-" if _is_exact(measured) else f"{error:.1e}"


if __name__ == "__main__":
    main()
