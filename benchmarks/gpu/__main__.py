"""Compares a whole model on a GPU with torch: numbers, and time per request, without gRPC.

    pip install 'polyhead[gpu,export]' torch transformers
    python -m benchmarks.gpu ./all-MiniLM-L6-v2

It ends with status 1 if an error is too large: 1e-4 in float32, 5e-3 in float16, of the largest
magnitude, of whole models against torch's eager attention in float32. With --device cpu the same
code runs on any machine.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from functools import partial
from itertools import product
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.gpu.polyhead_side import WholeCase, block_error, largest_error, make_engine
from benchmarks.report import print_now, table
from polyhead_server.engine.runtime import onnxruntime_version

try:
    from benchmarks.gpu.torch_side import TorchModel, describe, has_gpu
except ModuleNotFoundError as error:
    raise SystemExit(f"{error}: pip install 'polyhead[gpu,export]' torch transformers") from None

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from numpy.typing import NDArray

_MAX_ERRORS = {"float32": 1e-4, "float16": 5e-3}


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkpoint", type=Path, help="folder of an encoder such as BERT")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--lengths", type=int, nargs="+", default=[16, 128, 512])
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--rounds", type=int, default=15)
    return parser.parse_args()


def _ids(batch_size: int, length: int, vocab_size: int) -> NDArray[np.int64]:
    low = min(1000, vocab_size // 2)
    return np.random.default_rng(length).integers(low, vocab_size, (batch_size, length))


def _milliseconds(cases: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Return the median wall time of each case. The cases take turns."""
    times: dict[str, list[float]] = {name: [] for name in cases}
    for number in range(rounds + 2):
        for name, run in cases.items():
            began = time.perf_counter()
            run()  # its result is on the host, so the device has finished
            if number >= 2:  # those before are warm-up
                times[name].append((time.perf_counter() - began) * 1000)
    return {name: median(each) for name, each in times.items()}


def _whole_error(case: WholeCase, torch_model: TorchModel, ids: NDArray[np.int64]) -> float:
    """Return the largest error of the output and of all weights."""
    expected, expected_weights = torch_model.run(ids, all_weights=True)
    output = case.run(ids).output
    assert output is not None
    weights = case.run(ids, all_weights=True).weights
    pairs = [(weights[layer].attn_weights, each) for layer, each in enumerate(expected_weights)]
    return max(largest_error(*pair) for pair in [(output, expected), *pairs])


def _check(options: argparse.Namespace, folder: Path, precision: str, case: WholeCase) -> bool:
    """Print the errors of one precision. Returns whether all are small enough."""
    max_error = _MAX_ERRORS[precision]
    eager = TorchModel(options.checkpoint, options.device, "eager", "float32")
    ids = _ids(2, min(options.lengths), case.vocab_size)
    errors = block_error(options.checkpoint, folder, precision, make_engine(options.device))
    errors["whole model"] = _whole_error(case, eager, ids)
    for name, error in errors.items():
        verdict = "ok" if error <= max_error else "TOO LARGE"
        print_now(f"{precision} {name}: error {error:.1e}, at most {max_error:g}: {verdict}")
    return max(errors.values()) <= max_error


def _measure(
    options: argparse.Namespace, precision: str, models: Mapping[str, WholeCase | TorchModel]
) -> Iterator[tuple[str, ...]]:
    """Yield the rows of the table of one precision."""
    vocab_size = next(m.vocab_size for m in models.values() if isinstance(m, WholeCase))
    for batch_size, length in product(options.batch_sizes, options.lengths):
        ids = _ids(batch_size, length, vocab_size)
        for result in ("output", "all weights"):
            runs = {
                name: partial(model.run, ids, all_weights=result == "all weights")
                for name, model in models.items()
                if (result, name) != ("all weights", "torch sdpa")  # it gives no weights
            }
            for name, ms in _milliseconds(runs, options.rounds).items():
                yield precision, str(batch_size), str(length), result, name, f"{ms:.2f}"


def _main() -> int:
    options, rows, are_small = _arguments(), [], True
    device, checkpoint = options.device, options.checkpoint
    if device == "cuda" and not has_gpu():
        raise SystemExit("torch finds no GPU here; --device cpu runs the same code on the CPU")
    print_now(f"{describe(device)}, ONNX Runtime {onnxruntime_version()}")
    with tempfile.TemporaryDirectory() as folder:
        for precision in _MAX_ERRORS:
            repository = Path(folder) / precision
            load = partial(WholeCase.of, checkpoint, repository, precision)
            models: dict[str, WholeCase | TorchModel] = {"polyhead": load(make_engine(device))}
            are_small &= _check(options, repository, precision, models["polyhead"])
            if device == "cpu":  # on a GPU tensors stay there in any case
                models["polyhead, arrays"] = load(make_engine(device, stays=False))
            for attention in ("sdpa", "eager"):
                name = f"torch {attention}"
                models[name] = TorchModel(checkpoint, device, attention, precision)
            rows += _measure(options, precision, models)
    header = ["precision", "batch", "tokens", "result", "by", "ms"]
    print_now(table(header, rows, texts=5))
    return int(not are_small)


if __name__ == "__main__":
    raise SystemExit(_main())
