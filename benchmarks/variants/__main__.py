"""Measures, and writes the tables."""

from __future__ import annotations

import argparse
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import benchmarks.variants
from benchmarks.blocks import VARIANTS, Variant, load_model, prepare_run
from benchmarks.harness.timing import CaseTimes, time_in_turns
from benchmarks.report import DOCS, RESULTS, print_now, publish, table
from benchmarks.variants.peak import peak_mb
from polyhead_models.graph import build_model
from polyhead_models.random_block import random_block
from polyhead_models.store import write_model

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from polyhead_server.engine.model import Model

OUTPUT, EXPLICIT, WEIGHTS = "output", "explicit", "weights"
NOTE = """\
12 heads of 64, embeddings of 768, one sequence, one thread, float32, `--max-scores-bytes` at its
default. Times are CPU milliseconds, medians of {rounds} rounds in which all cases take turns. "Of
explicit" is the time relative to the explicit branch, which a mask that masks nothing forces; "-"
if the explicit branch is the only one. MB is the growth of a process at the peak of one run of
{longest} tokens. "With weights" returns the output and all attention weights."""


@dataclass
class Measured:
    """The measurements of one variant: times by length and mode, megabytes by mode."""

    variant: Variant
    file: Path
    model: Model
    branches: dict[int, str] = field(default_factory=dict)
    """The branch that ran for the output only, by length."""
    times: dict[tuple[int, str], CaseTimes] = field(default_factory=dict)
    megabytes: dict[str, float] = field(default_factory=dict)

    @property
    def modes(self) -> list[str]:
        """The modes to measure: the explicit branch is forced if the model also has a fused one."""
        return [OUTPUT, *([EXPLICIT] if self.model.config.fused_operator else []), WEIGHTS]

    def prepare_run(self, mode: str, seq_len: int) -> Callable[[], None]:
        """Prepare a run that records which branch ran."""
        run = prepare_run(self.model, self.variant, mode, seq_len)

        def record() -> None:
            outputs = run()
            if mode == OUTPUT:
                fused = self.model.config.fused_operator
                self.branches[seq_len] = fused if outputs.is_fused else EXPLICIT

        return record

    def of_explicit(self, seq_len: int) -> str:
        """Return the time relative to the explicit branch, if the model has another one."""
        if EXPLICIT not in self.modes:
            return "-"
        forced = self.times[seq_len, EXPLICIT]
        return f"{self.times[seq_len, OUTPUT].ratio_to(forced):.2f}"


def main() -> None:
    """Measure, and write the tables."""
    parser = argparse.ArgumentParser(description=benchmarks.variants.__doc__)
    parser.add_argument(
        "--quick", action="store_true", help="measure a few small cases, and write nothing"
    )
    is_quick = parser.parse_args().quick
    variants, lengths, rounds = VARIANTS[:: 6 if is_quick else 1], (512, 2048), 3
    if is_quick:
        lengths, rounds = (16, 256), 1
    with TemporaryDirectory() as folder:
        measured = _measure(Path(folder), variants, lengths, rounds)
    note = NOTE.format(rounds=rounds, longest=lengths[-1])
    short = f"{note}\n\n{_short_table(measured, lengths)}"
    full = f"{note}\n\n{_full_table(measured, lengths)}"
    print_now(short)
    if not is_quick:
        publish("variants", f"## Variants\n\n{full}", RESULTS)
        publish("variants", short, DOCS / "variants.md")


def _measure(
    folder: Path, variants: Sequence[Variant], lengths: tuple[int, ...], rounds: int
) -> list[Measured]:
    results = []
    for number, variant in enumerate(variants):
        block = random_block(variant.config, seed=0)
        file = write_model(folder, f"variant-{number}", build_model(block))
        results.append(Measured(variant, file, load_model(variant.name, file)))
    for seq_len in lengths:
        print_now(f"variants: time at {seq_len} tokens")
        _time(results, seq_len, rounds)
    print_now("variants: memory")
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        list(pool.map(partial(_measure_memory, seq_len=lengths[-1]), results))
    return results


def _time(results: list[Measured], seq_len: int, rounds: int) -> None:
    measured_modes = [(measured, mode) for measured in results for mode in measured.modes]
    cases = {
        f"{measured.variant.name}, {mode}": measured.prepare_run(mode, seq_len)
        for measured, mode in measured_modes
    }
    all_samples = time_in_turns(cases, rounds).values()
    for (measured, mode), samples in zip(measured_modes, all_samples, strict=True):
        measured.times[seq_len, mode] = samples


def _measure_memory(measured: Measured, seq_len: int) -> None:
    for mode in measured.modes:
        measured.megabytes[mode] = peak_mb(measured.file, measured.variant.name, mode, seq_len)


def _short_table(results: list[Measured], lengths: tuple[int, ...]) -> str:
    longest = lengths[-1]
    header = ["variant", "branch", *(f"ms at {n}" for n in lengths), "of explicit", "MB"]
    header += [f"ms at {longest}, with weights", "MB, with weights"]
    rows = [
        [
            measured.variant.name,
            _branch(measured, lengths),
            *(f"{measured.times[n, OUTPUT].cpu_ms:.0f}" for n in lengths),
            measured.of_explicit(longest),
            f"{measured.megabytes[OUTPUT]:.0f}",
            f"{measured.times[longest, WEIGHTS].cpu_ms:.0f}",
            f"{measured.megabytes[WEIGHTS]:.0f}",
        ]
        for measured in results
    ]
    return table(header, rows, texts=2)


def _full_table(results: list[Measured], lengths: tuple[int, ...]) -> str:
    header = ["variant", "case", "tokens", "CPU ms", "wall ms", "spread", "of explicit", "MB"]
    rows = []
    for measured in results:
        for seq_len in lengths:
            for mode in measured.modes:
                samples = measured.times[seq_len, mode]
                branch = measured.branches[seq_len]
                cases = {OUTPUT: branch, EXPLICIT: "explicit, forced", WEIGHTS: "with weights"}
                is_output, is_longest = mode == OUTPUT, seq_len == lengths[-1]
                rows.append(
                    [
                        measured.variant.name,
                        cases[mode],
                        str(seq_len),
                        f"{samples.cpu_ms:.1f}",
                        f"{samples.wall_ms:.1f}",
                        f"{samples.spread:.0%}",
                        measured.of_explicit(seq_len) if is_output else "",
                        f"{measured.megabytes[mode]:.0f}" if is_longest else "",
                    ]
                )
    return table(header, rows, texts=2)


def _branch(measured: Measured, lengths: tuple[int, ...]) -> str:
    """Return the name of the branch, or of both if long sequences take another one."""
    first, last = (measured.branches[seq_len] for seq_len in (lengths[0], lengths[-1]))
    return first if first == last else f"{first}; {last} at {lengths[-1]}"


if __name__ == "__main__":
    main()
