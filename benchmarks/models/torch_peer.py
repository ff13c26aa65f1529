"""Measures a checkpoint in torch and as one fused ONNX graph. It runs in torch's environment.

It prints a line of JSON: CPU seconds of each case, one for each round.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from pathlib import Path

os.environ["ORT_DISABLE_TELEMETRY"] = "1"

import numpy as np
import onnxruntime as ort
import torch
import transformers

LENGTHS = (16, 128, 512)
ROUNDS = 9


def cpu_seconds(run, calls):
    run()
    seconds = []
    for _ in range(ROUNDS):
        started = time.process_time()
        for _ in range(calls):
            run()
        seconds.append((time.process_time() - started) / calls)
    return seconds


class Output(torch.nn.Module):
    """A model that takes token ids alone, and returns its output alone."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, ids):
        return self.model(input_ids=ids).last_hidden_state


def onnx_graph(model, file):
    """Export the model as one graph, and let ONNX Runtime's own optimizer fuse it."""
    from onnxruntime.transformers import optimizer

    ids = torch.zeros((1, 16), dtype=torch.int64)
    axes = {0: "batch_size", 1: "seq_len"}
    torch.onnx.export(
        Output(model),
        (ids,),
        file,
        input_names=["input_ids"],
        output_names=["output"],
        dynamic_axes={"input_ids": axes, "output": axes},
        dynamo=False,
    )
    config = model.config
    fused = optimizer.optimize_model(
        str(file), "bert", num_heads=config.num_attention_heads, hidden_size=config.hidden_size
    )
    fused.save_model_to_file(str(file))


@torch.no_grad()
def main(folder):
    torch.set_num_threads(1)
    ids = {n: np.random.default_rng(0).integers(1000, 20000, (1, n)) for n in LENGTHS}
    results = {}
    models = {
        kind: transformers.AutoModel.from_pretrained(folder, attn_implementation=kind).eval()
        for kind in ("sdpa", "eager")
    }
    for length, array in ids.items():
        tokens, calls = torch.tensor(array), max(2, 256 // length)
        results[f"sdpa {length}"] = cpu_seconds(lambda t=tokens: models["sdpa"](t), calls)
    tokens = torch.tensor(ids[512])
    results["eager 512, all weights"] = cpu_seconds(
        lambda: models["eager"](tokens, output_attentions=True), 2
    )
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "model.onnx"
        onnx_graph(models["eager"], file)
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        session = ort.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
        for length, array in ids.items():
            feeds = {"input_ids": array}
            results[f"onnx {length}"] = cpu_seconds(
                lambda f=feeds: session.run(None, f), max(2, 256 // length)
            )
    print(json.dumps(results))


main(sys.argv[1])
