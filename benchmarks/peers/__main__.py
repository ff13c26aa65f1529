"""Measures polyhead beside the peers that are there, and writes the tables."""

from __future__ import annotations

import argparse
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import benchmarks.peers
from benchmarks.blocks import random_embeddings
from benchmarks.harness.calls import attend_bytes, attend_call, stream_call
from benchmarks.harness.cases import Case, Load, loads_in_turns, ratios
from benchmarks.harness.h2load import H2load, has_h2load
from benchmarks.harness.python_load import STREAM, UNARY, Driven
from benchmarks.harness.serving import serving
from benchmarks.limits.finding import Effort, Finding, Limit, limits_table
from benchmarks.peers.inference_protocol import infer_call
from benchmarks.peers.plain_graph import plain_graph
from benchmarks.peers.servers import PEERS, installed
from benchmarks.peers.tables import rates_table, reasons
from benchmarks.report import RESULTS, publish, say
from benchmarks.repository import MODEL, exported
from polyhead_models.reference.attention import attend

if TYPE_CHECKING:
    from benchmarks.harness.calls import RawCall

EMBED_DIM, NUM_HEADS, SEQ_LEN = 64, 4, 16
TRITON = "triton"
IN_FLIGHT = (1, 16, 64, 256)
LEAST = {16: 3.0, 256: 4.0}
"""Requests a second of the stream, at least, relative to Triton's; by number in flight."""
STREAMED = 1024
"""Requests of each stream by h2load."""
NOTE = """\
A block of {tokens} tokens x {width}, {heads} heads, outputs only; ONNX Runtime with one thread
everywhere. The peers run a plain ONNX graph of the same block, which takes the query alone, and
their outputs were compared with the reference's. Triton runs it in its Python backend, with dynamic
batching and no delay for it; MLServer in a runtime of its own kind, without batching. Cells are
requests a second, and the median latency in ms; medians of {rounds} rounds, about {seconds:g} s of
each case, in which the servers take turns; all in flight on one connection, the server and the
generator on the same CPUs. "grpc.aio" is a Python process that sends and gets bytes; "AsyncClient"
the client of this project, arrays in and out. A stream of h2load's sends all that it has; each of
its messages holds as many requests as the column says. Ratios are medians of the rounds' ratios,
and may differ from those of the cells."""
ALONE = "No peers were measured: none was found. `--peers DIR` says where they are installed."


def main() -> None:
    """Measure, and write the tables."""
    parser = argparse.ArgumentParser(
        description=benchmarks.peers.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--peers", type=Path, metavar="DIR", help="where the peers are installed")
    parser.add_argument("--quick", action="store_true", help="briefly, and nothing is written")
    arguments = parser.parse_args()
    effort = Effort(rounds=1, seconds=0.2) if arguments.quick else Effort(rounds=9, seconds=0.6)
    peers = installed(arguments.peers)
    loads = _measure(arguments.peers, peers, effort)
    text = NOTE.format(
        tokens=SEQ_LEN,
        width=EMBED_DIM,
        heads=NUM_HEADS,
        rounds=effort.rounds,
        seconds=effort.seconds,
    )
    text += f"\n\n{rates_table(loads)}\n\n{reasons(loads) if peers else ALONE}"
    if TRITON in peers:
        text += f"\n\n{limits_table(_findings(loads))}"
    say(text)
    if peers and not arguments.quick:
        publish("peers", f"## Beside other servers\n\n{text}", RESULTS)


def _measure(folder: Path, peers: list[str], effort: Effort) -> dict[int, dict[str, list[Load]]]:
    query = random_embeddings(SEQ_LEN, EMBED_DIM)
    request = attend_bytes(query, MODEL)
    loads = {}
    with ExitStack() as stack:
        model = stack.enter_context(exported(EMBED_DIM, NUM_HEADS))
        served = stack.enter_context(serving(model.folder, "--threads", "1"))
        call = attend_call(served, [request])
        calls = {}
        graph, (expected, _) = plain_graph(model.block), attend(model.block, query)
        for name in peers:
            peer = stack.enter_context(PEERS[name](folder / name, graph, MODEL))
            calls[name] = infer_call(peer, MODEL, query, expected)
        for in_flight in IN_FLIGHT:
            say(f"peers: {in_flight} in flight")
            stream = stream_call(served, request, STREAMED // in_flight, in_flight)
            cases = _cases(call, stream, calls, in_flight)
            loads[in_flight] = loads_in_turns(cases, effort.rounds, effort.seconds)
    return loads


def _cases(
    call: RawCall, stream: RawCall, peers: dict[str, RawCall], in_flight: int
) -> dict[str, Case]:
    cases: dict[str, Case] = {
        "polyhead, stream; AsyncClient": Driven(call, in_flight, STREAM),
        "polyhead, calls; AsyncClient": Driven(call, in_flight, UNARY),
        "polyhead, calls; grpc.aio": Driven(call, in_flight),
    }
    cases |= {f"{name}, calls; grpc.aio": Driven(peer, in_flight) for name, peer in peers.items()}
    if has_h2load():
        cases["polyhead, stream; h2load"] = H2load(stream, 1)
        cases["polyhead, calls; h2load"] = H2load(call, in_flight)
        cases |= {f"{name}, calls; h2load": H2load(peer, in_flight) for name, peer in peers.items()}
    return cases


def _findings(loads: dict[int, dict[str, list[Load]]]) -> list[Finding]:
    """Compare a Python client's streams with Triton under a Python client."""
    findings = []
    for in_flight, least in LEAST.items():
        stream = loads[in_flight]["polyhead, stream; AsyncClient"]
        triton = loads[in_flight][f"{TRITON}, calls; grpc.aio"]
        findings.append(
            Finding(
                f"{SEQ_LEN} x {EMBED_DIM}; AsyncClient, stream; {in_flight} in flight",
                "Triton's Python backend under grpc.aio: requests/s",
                Limit(least, is_least=True),
                ratios(stream, triton, "rate"),
            )
        )
    return findings


if __name__ == "__main__":
    main()
