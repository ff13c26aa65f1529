"""Measures polyhead and the installed peers, and writes the tables."""

from __future__ import annotations

import argparse
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import benchmarks.peers
from benchmarks.blocks import random_embeddings
from benchmarks.harness.calls import attend_call, serialize_request, stream_call
from benchmarks.harness.cases import Case, Measurement, measure_in_turns, ratios
from benchmarks.harness.h2load import H2load, has_h2load
from benchmarks.harness.python_load import STREAM, UNARY, PythonLoad
from benchmarks.harness.serving import start_server
from benchmarks.limits.finding import Effort, Finding, Limit, limits_table
from benchmarks.peers.inference_protocol import infer_call
from benchmarks.peers.plain_graph import plain_graph
from benchmarks.peers.servers import PEERS, installed
from benchmarks.peers.tables import rates_table, reasons
from benchmarks.report import RESULTS, print_now, publish
from benchmarks.repository import MODEL, exported
from polyhead_models.reference.attention import attend

if TYPE_CHECKING:
    from benchmarks.harness.calls import RawCall

EMBED_DIM, NUM_HEADS, SEQ_LEN = 64, 4, 16
TRITON = "triton"
IN_FLIGHT = (1, 16, 64, 256)
MIN_RATIOS = {16: 2.5, 256: 4.0}
"""Limits on the stream's requests per second relative to Triton's, by number in flight."""
STREAM_REQUESTS = 1024
"""Number of requests in each of h2load's streams."""
NOTE = """\
A block of {tokens} tokens x {width}, {heads} heads, outputs only; ONNX Runtime has one thread in
every server. The peers run a plain ONNX graph of the same block, which takes only the query; their
outputs were compared with the reference's. Triton runs it in its Python backend, with dynamic
batching without delay; MLServer in a runtime of its own, without batching. Cells are requests per
second and the median latency in ms: medians of {rounds} rounds of about {seconds:g} s per case, in
which the servers take turns. One connection carries all requests; the server and the generator
share the CPUs. "grpc.aio" is a Python process that sends and receives bytes; "AsyncClient" is this
project's client, arrays in and out. A stream of h2load sends without waiting, and each of its
messages holds as many requests as the column says. Ratios are medians of the rounds' ratios, and
may differ from the ratios of the cells."""
NO_PEERS = "No peers were measured. `--peers DIR` says where they are installed."


def main() -> None:
    """Measure, and write the tables."""
    parser = argparse.ArgumentParser(
        description=benchmarks.peers.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--peers", type=Path, metavar="DIR", help="where the peers are installed")
    parser.add_argument("--quick", action="store_true", help="measure briefly, and write nothing")
    arguments = parser.parse_args()
    effort = Effort(rounds=1, seconds=0.2) if arguments.quick else Effort(rounds=9, seconds=0.6)
    peers = installed(arguments.peers)
    measurements = _measure(arguments.peers, peers, effort)
    text = NOTE.format(
        tokens=SEQ_LEN,
        width=EMBED_DIM,
        heads=NUM_HEADS,
        rounds=effort.rounds,
        seconds=effort.seconds,
    )
    text += f"\n\n{rates_table(measurements)}\n\n{reasons(measurements) if peers else NO_PEERS}"
    if TRITON in peers:
        text += f"\n\n{limits_table(_findings(measurements))}"
    print_now(text)
    if peers and not arguments.quick:
        publish("peers", f"## Compared with other servers\n\n{text}", RESULTS)


def _measure(
    folder: Path, peers: list[str], effort: Effort
) -> dict[int, dict[str, list[Measurement]]]:
    query = random_embeddings(SEQ_LEN, EMBED_DIM)
    request = serialize_request(query, MODEL)
    measurements = {}
    with ExitStack() as stack:
        model = stack.enter_context(exported(EMBED_DIM, NUM_HEADS))
        served = stack.enter_context(start_server(model.folder, "--threads", "1"))
        call = attend_call(served, [request])
        calls = {}
        graph, (expected, _) = plain_graph(model.block), attend(model.block, query)
        for name in peers:
            peer = stack.enter_context(PEERS[name](folder / name, graph, MODEL))
            calls[name] = infer_call(peer, MODEL, query, expected)
        for in_flight in IN_FLIGHT:
            print_now(f"peers: {in_flight} in flight")
            stream = stream_call(served, request, STREAM_REQUESTS // in_flight, in_flight)
            cases = _cases(call, stream, calls, in_flight)
            measurements[in_flight] = measure_in_turns(cases, effort.rounds, effort.seconds)
    return measurements


def _cases(
    call: RawCall, stream: RawCall, peers: dict[str, RawCall], in_flight: int
) -> dict[str, Case]:
    cases: dict[str, Case] = {
        "polyhead, stream; AsyncClient": PythonLoad(call, in_flight, STREAM),
        "polyhead, calls; AsyncClient": PythonLoad(call, in_flight, UNARY),
        "polyhead, calls; grpc.aio": PythonLoad(call, in_flight),
    }
    cases |= {
        f"{name}, calls; grpc.aio": PythonLoad(peer, in_flight) for name, peer in peers.items()
    }
    if has_h2load():
        cases["polyhead, stream; h2load"] = H2load(stream, 1)
        cases["polyhead, calls; h2load"] = H2load(call, in_flight)
        cases |= {f"{name}, calls; h2load": H2load(peer, in_flight) for name, peer in peers.items()}
    return cases


def _findings(measurements: dict[int, dict[str, list[Measurement]]]) -> list[Finding]:
    """Compare AsyncClient's stream with Triton under a Python client."""
    findings = []
    for in_flight, bound in MIN_RATIOS.items():
        stream = measurements[in_flight]["polyhead, stream; AsyncClient"]
        triton = measurements[in_flight][f"{TRITON}, calls; grpc.aio"]
        findings.append(
            Finding(
                f"{SEQ_LEN} x {EMBED_DIM}; AsyncClient, stream; {in_flight} in flight",
                "Triton's Python backend under grpc.aio: requests/s",
                Limit(bound, is_minimum=True),
                ratios(stream, triton, "rate"),
            )
        )
    return findings


if __name__ == "__main__":
    main()
