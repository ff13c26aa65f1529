"""Measures, and writes the tables."""

from __future__ import annotations

import argparse
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from textwrap import fill

import benchmarks.weights
from benchmarks.blocks import EMBED_DIM, NUM_HEADS
from benchmarks.harness.serving import serving
from benchmarks.report import RESULTS, publish, say, table
from benchmarks.weights.one_request import Answer, ask_once
from benchmarks.weights.requests import ALL, IN_BLOCKS, MODEL, ONE_ROW, QUESTIONS
from polyhead_models.config import AttentionConfig
from polyhead_models.graph import build_model
from polyhead_models.random_block import random_block
from polyhead_models.store import write_model

FLAGS = ("--threads", "1")
CPU, WALL, SERVER_MB, CLIENT_MB = "server_cpu_s", "wall_s", "server_mb", "client_mb"
LARGE_MESSAGES = ("--max-response-bytes", str(2**31 - 1))
NOTE = """\
A block of {heads} heads and embeddings of {width}, one sequence of {tokens} tokens, over gRPC on
one machine; the server computes with one thread. All figures are medians of {rounds} rounds in
which all questions take turns, each asked once, of a server process and by a client process that
are fresh, connected and warm. MB are what a process grows by at its peak. "Of all" is relative to
asking for all weights in one message, which needs a larger `--max-response-bytes` than the default;
blocks (`attend_rows`) do not. No question but the last asks for the output; every one sends the
embeddings, {request:.1f} MB."""
LONG = """\
All weights of {tokens} tokens, {gigabytes:.1f} GB, with `attend_rows` and the server's limits as
they are by default (one answer, fresh processes on both sides): {wall:.1f} s; {server_cpu:.1f} s of
the server's CPU and {client_cpu:.1f} s of the client's. At their peaks the server had grown by
{server_mb:.0f} MB and the client by {client_mb:.0f} MB."""


def main() -> None:
    """Measure, and write the tables."""
    parser = argparse.ArgumentParser(description=benchmarks.weights.__doc__)
    parser.add_argument("--quick", action="store_true", help="short sequences; nothing is written")
    is_quick = parser.parse_args().quick
    seq_len, long_seq_len, rounds = (256, 512, 1) if is_quick else (4096, 8192, 3)
    config = AttentionConfig(embed_dim=EMBED_DIM, num_heads=NUM_HEADS)
    with TemporaryDirectory() as folder:
        models = Path(folder)
        write_model(models, MODEL, build_model(random_block(config, seed=0)))
        answers = _ask(models, seq_len, rounds)
        say(f"weights: all of {long_seq_len} tokens")
        with serving(models, *FLAGS) as served:
            long = ask_once(served, IN_BLOCKS, long_seq_len)
    text = "\n\n".join(
        (
            NOTE.format(
                heads=NUM_HEADS,
                width=EMBED_DIM,
                tokens=seq_len,
                rounds=rounds,
                request=seq_len * EMBED_DIM * 4 / 1e6,
            ),
            _table(answers),
            fill(_verdict(answers, seq_len), width=100),
            fill(_long(long, long_seq_len), width=100),
        )
    )
    say(text)
    if not is_quick:
        publish("weights", f"## Attention weights\n\n{text}", RESULTS)


def _ask(models: Path, seq_len: int, rounds: int) -> dict[str, list[Answer]]:
    answers: dict[str, list[Answer]] = {name: [] for name in QUESTIONS}
    for turn in range(rounds):
        say(f"weights: round {turn + 1} of {rounds}, {seq_len} tokens")
        for name in QUESTIONS:
            with serving(models, *FLAGS, *LARGE_MESSAGES) as served:
                answers[name].append(ask_once(served, name, seq_len))
    return answers


def _table(answers: dict[str, list[Answer]]) -> str:
    header = ["asked for", "server CPU ms", "of all", "spread", "wall ms", "of all"]
    header += ["server MB", "of all", "client MB", "answer MB"]
    whole = answers[ALL]
    rows = [
        [
            name,
            f"{_median(own, CPU) * 1000:.0f}",
            f"{_ratio(own, whole, CPU):.3f}",
            f"{_spread(own, CPU):.0%}",
            f"{_median(own, WALL) * 1000:.0f}",
            f"{_ratio(own, whole, WALL):.3f}",
            f"{_median(own, SERVER_MB):.0f}",
            f"{_ratio(own, whole, SERVER_MB):.3f}",
            f"{_median(own, CLIENT_MB):.0f}",
            f"{own[0].answer_bytes / 1e6:.3g}",
        ]
        for name, own in answers.items()
    ]
    return table(header, rows)


def _verdict(answers: dict[str, list[Answer]], seq_len: int) -> str:
    """Compare what one row's top costs with all weights, in time and memory."""
    row, whole, blocks = answers[ONE_ROW], answers[ALL], answers[IN_BLOCKS]
    return (
        f"The top 10 keys of one row of {seq_len} x {seq_len} cost {_ratio(row, whole, CPU):.1%} "
        f"of the server's CPU time that all weights cost in one message, "
        f"{_ratio(row, whole, WALL):.1%} of the caller's wait, "
        f"{_ratio(row, whole, SERVER_MB):.1%} of the server's memory and "
        f"{_ratio(row, whole, CLIENT_MB):.1%} of the client's. Of all weights in blocks they cost "
        f"{_ratio(row, blocks, CPU):.1%} of the CPU time and {_ratio(row, blocks, WALL):.1%} of "
        "the wait."
    )


def _median(answers: list[Answer], what: str) -> float:
    return median(float(getattr(answer, what)) for answer in answers)


def _ratio(own: list[Answer], other: list[Answer], what: str) -> float:
    """The median of the ratios within each round."""
    pairs = zip(own, other, strict=True)
    return median(float(getattr(mine, what) / getattr(theirs, what)) for mine, theirs in pairs)


def _spread(answers: list[Answer], what: str) -> float:
    numbers = [getattr(answer, what) for answer in answers]
    return float((max(numbers) - min(numbers)) / median(numbers))


def _long(answer: Answer, seq_len: int) -> str:
    return LONG.format(
        tokens=seq_len,
        gigabytes=answer.answer_bytes / 1e9,
        wall=answer.wall_s,
        server_cpu=answer.server_cpu_s,
        client_cpu=answer.client_cpu_s,
        server_mb=answer.server_mb,
        client_mb=answer.client_mb,
    )


if __name__ == "__main__":
    main()
