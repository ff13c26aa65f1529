"""Measures, and writes the tables."""

from __future__ import annotations

import argparse
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from textwrap import fill

import benchmarks.weights
from benchmarks.blocks import EMBED_DIM, NUM_HEADS
from benchmarks.harness.serving import start_server
from benchmarks.report import RESULTS, print_now, publish, table
from benchmarks.weights.one_request import RequestCost, send_once
from benchmarks.weights.requests import ALL, IN_BLOCKS, MODEL, ONE_ROW, REQUESTS
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
which the requests take turns. Each is sent once, by a new client process to a new server process,
after a warm-up. MB is the growth of a process at its peak. "Of all" is relative to requesting all
weights in one message, which needs a larger `--max-response-bytes` than the default; blocks
(`attend_rows`) do not. Only the last request includes the output; each sends the embeddings,
{request:.1f} MB."""
LONG = """\
All weights of {tokens} tokens, {gigabytes:.1f} GB, with `attend_rows` and the server's default
limits (one request, new processes on both sides): {wall:.1f} s, with {server_cpu:.1f} s of the
server's CPU time and {client_cpu:.1f} s of the client's. At their peaks the server had grown by
{server_mb:.0f} MB and the client by {client_mb:.0f} MB."""


def main() -> None:
    """Measure, and write the tables."""
    parser = argparse.ArgumentParser(description=benchmarks.weights.__doc__)
    parser.add_argument(
        "--quick", action="store_true", help="request short sequences, and write nothing"
    )
    is_quick = parser.parse_args().quick
    seq_len, long_seq_len, rounds = (256, 512, 1) if is_quick else (4096, 8192, 3)
    config = AttentionConfig(embed_dim=EMBED_DIM, num_heads=NUM_HEADS)
    with TemporaryDirectory() as folder:
        models = Path(folder)
        write_model(models, MODEL, build_model(random_block(config, seed=0)))
        costs = _measure(models, seq_len, rounds)
        print_now(f"weights: all of {long_seq_len} tokens")
        with start_server(models, *FLAGS) as served:
            long = send_once(served, IN_BLOCKS, long_seq_len)
    text = "\n\n".join(
        (
            NOTE.format(
                heads=NUM_HEADS,
                width=EMBED_DIM,
                tokens=seq_len,
                rounds=rounds,
                request=seq_len * EMBED_DIM * 4 / 1e6,
            ),
            _table(costs),
            fill(_verdict(costs, seq_len), width=100),
            fill(_long(long, long_seq_len), width=100),
        )
    )
    print_now(text)
    if not is_quick:
        publish("weights", f"## Attention weights\n\n{text}", RESULTS)


def _measure(models: Path, seq_len: int, rounds: int) -> dict[str, list[RequestCost]]:
    costs: dict[str, list[RequestCost]] = {name: [] for name in REQUESTS}
    for turn in range(rounds):
        print_now(f"weights: round {turn + 1} of {rounds}, {seq_len} tokens")
        for name in REQUESTS:
            with start_server(models, *FLAGS, *LARGE_MESSAGES) as served:
                costs[name].append(send_once(served, name, seq_len))
    return costs


def _table(costs: dict[str, list[RequestCost]]) -> str:
    header = ["request", "server CPU ms", "of all", "spread", "wall ms", "of all"]
    header += ["server MB", "of all", "client MB", "result MB"]
    whole = costs[ALL]
    rows = [
        [
            name,
            f"{_median(these, CPU) * 1000:.0f}",
            f"{_ratio(these, whole, CPU):.3f}",
            f"{_spread(these, CPU):.0%}",
            f"{_median(these, WALL) * 1000:.0f}",
            f"{_ratio(these, whole, WALL):.3f}",
            f"{_median(these, SERVER_MB):.0f}",
            f"{_ratio(these, whole, SERVER_MB):.3f}",
            f"{_median(these, CLIENT_MB):.0f}",
            f"{these[0].result_bytes / 1e6:.3g}",
        ]
        for name, these in costs.items()
    ]
    return table(header, rows)


def _verdict(costs: dict[str, list[RequestCost]], seq_len: int) -> str:
    """Compare the cost of one row's top keys with that of all weights, in time and memory."""
    row, whole, blocks = costs[ONE_ROW], costs[ALL], costs[IN_BLOCKS]
    return (
        f"The top 10 keys of one row of {seq_len} x {seq_len} cost {_ratio(row, whole, CPU):.1%} "
        f"of the server's CPU time that all weights in one message cost, "
        f"{_ratio(row, whole, WALL):.1%} of the caller's waiting time, "
        f"{_ratio(row, whole, SERVER_MB):.1%} of the server's memory and "
        f"{_ratio(row, whole, CLIENT_MB):.1%} of the client's. "
        "Relative to all weights in blocks they cost "
        f"{_ratio(row, blocks, CPU):.1%} of the CPU time and {_ratio(row, blocks, WALL):.1%} of "
        "the waiting time."
    )


def _median(costs: list[RequestCost], figure: str) -> float:
    return median(float(getattr(cost, figure)) for cost in costs)


def _ratio(these: list[RequestCost], others: list[RequestCost], figure: str) -> float:
    """Return the median over the rounds of the ratio."""
    pairs = zip(these, others, strict=True)
    return median(float(getattr(one, figure) / getattr(another, figure)) for one, another in pairs)


def _spread(costs: list[RequestCost], figure: str) -> float:
    numbers = [getattr(cost, figure) for cost in costs]
    return float((max(numbers) - min(numbers)) / median(numbers))


def _long(cost: RequestCost, seq_len: int) -> str:
    return LONG.format(
        tokens=seq_len,
        gigabytes=cost.result_bytes / 1e9,
        wall=cost.wall_s,
        server_cpu=cost.server_cpu_s,
        client_cpu=cost.client_cpu_s,
        server_mb=cost.server_mb,
        client_mb=cost.client_mb,
    )


if __name__ == "__main__":
    main()
