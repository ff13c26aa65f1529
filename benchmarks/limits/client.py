"""The client's own work: from a reply's bytes to arrays."""

from __future__ import annotations

import numpy as np

from benchmarks.blocks import EMBED_DIM, NUM_HEADS, random_embeddings
from benchmarks.harness.calls import ask, attend_bytes
from benchmarks.harness.cases import loads_in_turns, ratios, repeated
from benchmarks.harness.serving import serving
from benchmarks.limits.finding import Effort, Finding, Limit
from benchmarks.repository import MODEL, exported
from polyhead._calls.request import prepare_call
from polyhead._calls.response import parse_attend_response

__all__ = ["measure_decode"]

SEQ_LEN = 512
DECODE, MEMCPY, COPY = "decode", "memcpy", "copy into new memory"


def measure_decode(effort: Effort) -> list[Finding]:
    """Compare the decoding of a large reply, bytes to AttentionResult, with a copy of it."""
    query = random_embeddings(SEQ_LEN, EMBED_DIM)
    with exported(EMBED_DIM, NUM_HEADS) as model, serving(model.folder, "--threads", "1") as served:
        reply = ask(served, attend_bytes(query, MODEL, need_weights=True))
    expected = prepare_call(query, model=MODEL, need_weights=True).expected
    source = np.frombuffer(reply, np.uint8)
    destination = np.zeros_like(source)
    cases = {
        DECODE: repeated(lambda: parse_attend_response(data=reply, expected=expected)),
        MEMCPY: repeated(lambda: np.copyto(destination, source)),
        COPY: repeated(source.copy),
    }
    loads = loads_in_turns(cases, effort.rounds, effort.seconds)
    work = f"decode of a reply of {len(reply) / 1e6:.1f} MB"
    cpu_ratios = ratios(loads[DECODE], loads[MEMCPY], "cpu_ms")
    return [Finding(work, "memcpy of it", Limit(1.5), cpu_ratios, loads)]
