"""The client's own cost: from a response's bytes to arrays."""

from __future__ import annotations

import numpy as np

from benchmarks.blocks import EMBED_DIM, NUM_HEADS, random_embeddings
from benchmarks.harness.calls import send_request, serialize_request
from benchmarks.harness.cases import measure_in_turns, ratios, repeat_function
from benchmarks.harness.serving import start_server
from benchmarks.limits.finding import Effort, Finding, Limit
from benchmarks.repository import MODEL, exported
from polyhead._calls.request import prepare_call
from polyhead._calls.response import parse_attend_response

__all__ = ["measure_decode"]

SEQ_LEN = 512
DECODE, MEMCPY, COPY = "decode", "memcpy", "copy into new memory"


def measure_decode(effort: Effort) -> list[Finding]:
    """Compare decoding a large response, from bytes to AttentionResult, with copying it."""
    query = random_embeddings(SEQ_LEN, EMBED_DIM)
    with (
        exported(EMBED_DIM, NUM_HEADS) as model,
        start_server(model.folder, "--threads", "1") as served,
    ):
        response = send_request(served, serialize_request(query, MODEL, need_weights=True))
    facts = prepare_call(query, model=MODEL, need_weights=True).expected
    source = np.frombuffer(response, np.uint8)
    destination = np.zeros_like(source)
    cases = {
        DECODE: repeat_function(lambda: parse_attend_response(data=response, expected=facts)),
        MEMCPY: repeat_function(lambda: np.copyto(destination, source)),
        COPY: repeat_function(source.copy),
    }
    measurements = measure_in_turns(cases, effort.rounds, effort.seconds)
    workload = f"decode of a response of {len(response) / 1e6:.1f} MB"
    cpu_ratios = ratios(measurements[DECODE], measurements[MEMCPY], "cpu_ms")
    return [Finding(workload, "memcpy of it", Limit(1.5), cpu_ratios, measurements)]
