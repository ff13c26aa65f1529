"""Measures the cost of whole models, from export to responses, by size of model and text.

    python -m benchmarks.models.growth ./all-MiniLM-L6-v2

The second model is a Llama of random weights, 1 GB in float32. It takes some minutes and 6 GB of
memory and disk.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import grpc
import numpy as np
import psutil
from safetensors.numpy import save_file

from benchmarks.harness.calls import UNLIMITED
from benchmarks.harness.serving import start_server
from benchmarks.report import RESULTS, print_now, publish, table
from polyhead.v1 import attention_pb2_grpc
from polyhead.v1 import forward_pb2 as f
from polyhead.wire.tensors import to_tensor

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

_MODEL = "model"
_LENGTHS = (1, 16, 64, 128, 256, 512)
_ROUNDS = 5
_MEASURED_S = 0.1  # the system counts CPU time in steps of 0.01
_WIDTH, _INNER, _LAYERS, _VOCAB, _HEADS = 1024, 2816, 18, 32_000, 16
_EXPORT = """
import sys
from polyhead.cli import main
try:
    main(["export", "checkpoint", sys.argv[1], "--name", "model", "--out", sys.argv[2]])
finally:
    status = open("/proc/self/status").read()  # getrusage tells the parent's peak, if it was higher
    print(status.partition("VmHWM:")[2].split()[0])
"""


def _write_llama(folder: Path) -> None:
    """Write a checkpoint of 263 million random weights, 1.05 GB."""
    config = {
        "model_type": "llama",
        "hidden_size": _WIDTH,
        "intermediate_size": _INNER,
        "num_hidden_layers": _LAYERS,
        "num_attention_heads": _HEADS,
        "num_key_value_heads": _HEADS,
        "vocab_size": _VOCAB,
        "max_position_embeddings": 2048,
        "rms_norm_eps": 1e-5,
        "hidden_act": "silu",
    }
    (folder / "config.json").write_text(json.dumps(config))
    generator = np.random.default_rng(0)

    def matrix(*shape: int) -> np.ndarray[Any, Any]:
        return generator.standard_normal(shape, np.float32) * np.float32(0.02)

    tensors = {"embed_tokens.weight": matrix(_VOCAB, _WIDTH), "norm.weight": np.ones(_WIDTH, "f4")}
    for layer in range(_LAYERS):
        prefix = f"layers.{layer}."
        for name in "qkvo":
            tensors[f"{prefix}self_attn.{name}_proj.weight"] = matrix(_WIDTH, _WIDTH)
        for name in ("gate", "up"):
            tensors[f"{prefix}mlp.{name}_proj.weight"] = matrix(_INNER, _WIDTH)
        tensors[f"{prefix}mlp.down_proj.weight"] = matrix(_WIDTH, _INNER)
        for name in ("input_layernorm", "post_attention_layernorm"):
            tensors[f"{prefix}{name}.weight"] = np.ones(_WIDTH, "f4")
    save_file(
        {f"model.{name}": tensor for name, tensor in tensors.items()}, folder / "model.safetensors"
    )


def _export(checkpoint: Path, repository: Path) -> tuple[float, float]:
    """Export a checkpoint in a new process. Returns its seconds and its peak in MB."""
    started = time.perf_counter()
    output = subprocess.run(  # noqa: S603 - our own
        [sys.executable, "-c", _EXPORT, str(checkpoint), str(repository)],
        capture_output=True,
        text=True,
        check=True,
    )
    return time.perf_counter() - started, int(output.stdout.split()[-1]) / 1e3


def _request(length: int, **fields: Any) -> f.ForwardRequest:  # noqa: ANN401 - the message's fields
    ids = np.random.default_rng(0).integers(1000, 20_000, (1, length))
    return f.ForwardRequest(model=_MODEL, token_ids=to_tensor(ids), **fields)


def _measure(
    repository: Path, requests: Sequence[f.ForwardRequest]
) -> tuple[float, float, list[float]]:
    """Serve a model: seconds from the start to the first answer, MB, and CPU ms of each request."""
    started = time.perf_counter()
    with (
        start_server(repository, "--provider", "cpu", "--threads", "1") as served,
        grpc.insecure_channel(served.target, options=UNLIMITED) as channel,
    ):
        forward = attention_pb2_grpc.AttentionServiceStub(channel).Forward
        forward(_request(16))
        first_s = time.perf_counter() - started
        process = psutil.Process(served.process_id)
        rounds = [
            [_cpu_seconds(process, partial(forward, request)) for request in requests]
            for _ in range(_ROUNDS + 1)
        ]
        resident_mb = process.memory_info().rss / 1e6
    by_request = zip(*rounds[1:], strict=True)  # the first round warms up
    return first_s, resident_mb, [median(seconds) * 1e3 for seconds in by_request]


def _cpu_seconds(process: psutil.Process, call: Callable[[], object]) -> float:
    """Return a server's CPU time for one call, the mean of the calls in a tenth of a second."""
    before, spent, count = sum(process.cpu_times()[:2]), 0.0, 0
    while spent < _MEASURED_S:
        call()
        count += 1
        spent = sum(process.cpu_times()[:2]) - before
    return spent / count


def _cost_rows(name: str, checkpoint: Path, scratch: Path) -> Iterator[list[str]]:
    """Yield the row of a model's export, start and memory."""
    weights_mb = (checkpoint / "model.safetensors").stat().st_size / 1e6
    print_now(f"{name}: export")
    export_s, peak_mb = _export(checkpoint, scratch / name)
    print_now(f"{name}: first answer")
    first_s, resident_mb, (cpu_ms,) = _measure(scratch / name, [_request(128)])
    figures = (weights_mb, export_s, peak_mb, first_s, resident_mb, cpu_ms)
    yield [name, *(f"{figure:,.3g}" if figure < 1000 else f"{figure:,.0f}" for figure in figures)]


def main() -> None:
    """Measure, and write both tables into RESULTS.md."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="a BERT's checkpoint, such as all-MiniLM-L6-v2")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        llama = scratch / "checkpoint"
        llama.mkdir()
        _write_llama(llama)
        rows = list(_cost_rows("MiniLM", arguments.folder, scratch))
        rows += _cost_rows("Llama of random weights", llama, scratch)
        num_layers = json.loads((arguments.folder / "config.json").read_text())["num_hidden_layers"]
        print_now("growth")
        cases = {f"{length} tokens, all layers": _request(length) for length in _LENGTHS}
        cases |= {
            f"128 tokens, {layer} of {num_layers} layers": _request(128, last_layer=layer - 1)
            for layer in range(1, num_layers)
        }
        *_, milliseconds = _measure(scratch / "MiniLM", list(cases.values()))
    header = [
        "model",
        "weights MB",
        "export s",
        "export's peak MB",
        "first answer s",
        "resident MB",
    ]
    text = table([*header, "128 tokens, ms of CPU"], rows)
    text += "\n\n" + table(
        ["MiniLM", "ms of CPU"],
        ([name, f"{cost:.1f}"] for name, cost in zip(cases, milliseconds, strict=True)),
    )
    print_now(text)
    publish("models-growth", text, RESULTS)


if __name__ == "__main__":
    main()
