"""Measures Forward of a whole model on one thread: CPU time per request, including gRPC.

    python -m benchmarks.models ./all-MiniLM-L6-v2 --torch ~/torch-env/bin/python

PYTHON is an interpreter with torch and transformers. Without it, the rows that need them are left
out. The
cases take turns, round by round; ratios are of medians.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import grpc
import numpy as np
import psutil

from benchmarks.harness.calls import UNLIMITED
from benchmarks.harness.serving import start_server
from benchmarks.report import RESULTS, print_now, publish, table
from polyhead.v1 import attention_pb2_grpc
from polyhead.v1 import forward_pb2 as f
from polyhead.v1 import tensor_pb2 as t
from polyhead.wire.tensors import to_tensor
from polyhead_models.checkpoint.checkpoint import Checkpoint
from polyhead_models.export.whole import export_whole_model

if TYPE_CHECKING:
    from collections.abc import Iterator

_ROUNDS = 9
_LENGTHS = (16, 128, 512)
_MODEL = "model"
_TEXT_LENGTHS = np.linspace(8, 60, 16).astype(int)

Requests = list[f.ForwardRequest]


def _ids(length: int, seed: int = 0) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).integers(1000, 20000, (1, length))


def _request(length: int, **fields: Any) -> f.ForwardRequest:  # noqa: ANN401 - the message's fields
    return f.ForwardRequest(model=_MODEL, token_ids=to_tensor(_ids(length)), **fields)


def _weights(layer: int, **selection: Any) -> f.LayerWeights:  # noqa: ANN401 - the message's fields
    wanted = t.AttnWeightsSelection(**selection)
    return f.LayerWeights(layer=f.LayerRef(layer=layer), selection=wanted)


def _cases(num_layers: int) -> dict[str, Requests]:
    """Return the requests of each case."""
    last = num_layers - 1
    row = _weights(last, queries=[0], average_heads=True, top_k=5)
    together = np.zeros((len(_TEXT_LENGTHS), int(_TEXT_LENGTHS.max())), np.int64)
    for index, length in enumerate(_TEXT_LENGTHS):
        together[index, :length] = _ids(int(length), index)
    return {
        **{f"forward {length}": [_request(length)] * max(1, 256 // length) for length in _LENGTHS},
        "forward 512, a row": [_request(512, attn_weights=[row])],
        "layer 1 alone": [_request(512, omit_output=True, attn_weights=[_weights(1)])],
        "forward 512, all weights": [
            _request(512, attn_weights=[_weights(layer) for layer in range(num_layers)])
        ],
        "16 texts in one call": [
            f.ForwardRequest(
                model=_MODEL, token_ids=to_tensor(together), lengths=_TEXT_LENGTHS.tolist()
            )
        ],
        "16 texts one by one": [
            f.ForwardRequest(model=_MODEL, token_ids=to_tensor(_ids(int(length), index)))
            for index, length in enumerate(_TEXT_LENGTHS)
        ],
    }


def _measure(folder: Path) -> tuple[dict[str, list[float]], float, float]:
    """Return CPU seconds of each case by round, the server's memory, and seconds of the export."""
    with tempfile.TemporaryDirectory() as scratch:
        started = time.perf_counter()
        model = export_whole_model(Checkpoint.open(folder), _MODEL, scratch)
        export_s = time.perf_counter() - started
        cases = _cases(len(model.config.stacks[0].layers))
        flags = ("--provider", "cpu", "--threads", "1", "--max-response-bytes", str(1 << 30))
        with (
            start_server(Path(scratch), *flags) as served,
            grpc.insecure_channel(served.target, options=UNLIMITED) as channel,
        ):
            process = psutil.Process(served.process_id)
            memory_mb = process.memory_info().rss / 1e6
            forward = attention_pb2_grpc.AttentionServiceStub(channel).Forward
            seconds: dict[str, list[float]] = {name: [] for name in cases}
            for number in range(_ROUNDS + 1):
                for name, requests in cases.items():
                    before = sum(process.cpu_times()[:2])
                    for request in requests:
                        forward(request)
                    spent = sum(process.cpu_times()[:2]) - before
                    per_call = spent if "texts" in name else spent / len(requests)
                    seconds[name] += [per_call] * bool(number)
                print_now(f"round {number} of {_ROUNDS}")
    return seconds, memory_mb, export_s


def _peer(python: str, folder: Path) -> dict[str, list[float]]:
    script = Path(__file__).with_name("torch_peer.py")
    output = subprocess.run(  # noqa: S603 - given by the user
        [python, str(script), str(folder)], capture_output=True, text=True, check=True
    )
    results: dict[str, list[float]] = json.loads(output.stdout.splitlines()[-1])
    return results


_ROWS = (
    ("forward, 16 tokens", "forward 16", "torch sdpa", "sdpa 16", 0.75),
    ("forward, 128 tokens", "forward 128", "torch sdpa", "sdpa 128", 0.95),
    ("forward, 512 tokens", "forward 512", "torch sdpa", "sdpa 512", 1.0),
    ("forward, 128 tokens", "forward 128", "one fused ONNX graph", "onnx 128", 1.1),
    ("forward, 512 tokens", "forward 512", "one fused ONNX graph", "onnx 512", 1.1),
    (
        "512 tokens: one row of the last layer, mean of heads, top 5",
        "forward 512, a row",
        "the forward alone",
        "forward 512",
        1.04,
    ),
    (
        "512 tokens: all weights of layer 1",
        "layer 1 alone",
        "the forward alone",
        "forward 512",
        0.45,
    ),
    (
        "512 tokens: all weights of all layers",
        "forward 512, all weights",
        "torch eager, all attentions",
        "eager 512, all weights",
        0.95,
    ),
    (
        "16 texts of 8 to 60 tokens in one call",
        "16 texts in one call",
        "one by one",
        "16 texts one by one",
        1.0,
    ),
)


def _rows(seconds: dict[str, list[float]]) -> Iterator[list[str]]:
    for work, case, against, peer, limit in _ROWS:
        if peer not in seconds:
            continue
        own, other = seconds[case], seconds[peer]
        ratio = median(own) / median(other)
        spread = (max(own) - min(own)) / median(own)
        milliseconds = f"{median(own) * 1e3:.1f} / {median(other) * 1e3:.1f}"
        reached = "reached" if ratio <= limit else "not reached"
        yield [
            work,
            against,
            f"{limit:.2f}",
            f"{ratio:.2f}",
            milliseconds,
            f"{spread:.0%}",
            reached,
        ]


def main() -> None:
    """Measure, and write the table into RESULTS.md."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="a BERT's checkpoint, such as all-MiniLM-L6-v2")
    parser.add_argument("--torch", metavar="PYTHON", help="a Python with torch and transformers")
    arguments = parser.parse_args()
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    seconds, memory_mb, export_s = _measure(arguments.folder)
    if arguments.torch:
        seconds |= _peer(arguments.torch, arguments.folder)
    weights_mb = (arguments.folder / "model.safetensors").stat().st_size / 1e6
    limit_mb = 1.6 * weights_mb + 120
    header = ["work", "against", "at most", "seen", "ms of CPU", "spread", ""]
    text = table(header, _rows(seconds), texts=2)
    text += (
        f"\n\nThe server holds {memory_mb:.0f} MB with the model loaded, at most {limit_mb:.0f} "
        f"wanted (weights: {weights_mb:.0f} MB). The export takes {export_s:.1f} s."
    )
    print_now(text)
    publish("models", text, RESULTS)


if __name__ == "__main__":
    main()
