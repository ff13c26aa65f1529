"""Measures the differences of two whole models' attention weights and outputs.

Both models are run with ONNX Runtime on the same random input, layer beside layer. Only the weights
of one layer of each are in memory at a time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx

from polyhead_models.config import ConfigError
from polyhead_models.random_numbers import UNIT_VARIANCE, uniform
from polyhead_models.store import MODEL_FILE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from polyhead_models.whole_config import Stack, Sublayer, WholeConfig

__all__ = ["WholeErrors", "check_runtime", "measure_errors"]

_NUM_SEQUENCES, _NUM_TOKENS = 4, 64
_NUM_PATCHES = 8
"""Patches along an axis of an image that may have any size."""
_FATAL = 4
"""ONNX Runtime's severity of what it logs; lower ones are warnings of inputs with defaults."""


@dataclass(frozen=True, slots=True)
class WholeErrors:
    """Differences of a model from its float32 form."""

    weights: float
    """Largest difference of an attention weight, in any layer."""
    output: float
    """Norm of the output's difference, relative to the norm of float32's; the largest stack's."""


def check_runtime() -> None:
    """Raise ConfigError if ONNX Runtime is not installed."""
    try:
        import onnxruntime  # noqa: F401 - only whether it is there
    except ImportError as error:
        raise ConfigError(
            "--quantize int8 runs a whole model to measure its error, and ONNX Runtime is not "
            "installed; pip install 'polyhead[export,server]', or export float32 or float16"
        ) from error


def measure_errors(
    config: WholeConfig, exact: Path, rough: Path, on_layer: Callable[[str], object]
) -> WholeErrors:
    """Compare two forms of a model by their folders, on random input."""
    models = [_SegmentedModel(folder) for folder in (exact, rough)]
    memories: list[NDArray[Any] | None] = [None, None]
    weights_error = output_error = 0.0
    for stack in config.stacks:
        probe = {stack.input: _random_input(stack)}
        states = [model.run(stack.embed, probe)[0] for model in models]
        for number, layer in enumerate(stack.layers):
            for sublayer in layer:
                inputs = zip(models, states, memories, strict=True)
                results = [_run_sublayer(*each, sublayer) for each in inputs]
                states = [result[0] for result in results]
                difference = np.abs(results[0][1] - results[1][1]).max()
                weights_error = float(np.maximum(weights_error, difference))  # NaN stays
            on_layer(f"{stack.name} layer {number}, measured")
        if stack.finish >= 0:
            states = [
                model.run(stack.finish, {"hidden_states": x})[0]
                for model, x in zip(models, states, strict=True)
            ]
        error = np.linalg.norm(states[1] - states[0]) / np.linalg.norm(states[0])
        output_error = float(np.maximum(output_error, error))
        memories = [*states]
    return WholeErrors(weights_error, output_error)


def _random_input(stack: Stack) -> NDArray[Any]:
    bits = np.random.PCG64(0)
    if stack.input == "token_ids":
        length = min(_NUM_TOKENS, stack.max_length or _NUM_TOKENS)
        numbers = bits.random_raw(_NUM_SEQUENCES * length) % np.uint64(stack.vocab_size)
        return numbers.astype(np.int64).reshape(_NUM_SEQUENCES, length)
    shape = stack.input_shape
    if stack.patch_size:
        shape = (shape[0], *(_NUM_PATCHES * size for size in stack.patch_size))
    return uniform(bits, (1, *shape), UNIT_VARIANCE)


def _run_sublayer(
    model: _SegmentedModel, x: NDArray[Any], memory: NDArray[Any] | None, sublayer: Sublayer
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return the hidden states after a sublayer, and its attention weights."""
    block = sublayer.block
    assert block is not None
    normed = model.run(sublayer.enter, {"hidden_states": x})[0] if sublayer.enter >= 0 else x
    keys = normed
    if sublayer.kind == "cross" and memory is not None:
        keys = np.resize(memory, (len(normed), *memory.shape[1:]))  # a spectrogram is one sequence
    feeds = {"query": normed, "key": keys, "value": keys, "need_weights": np.ones((), np.bool_)}
    if block.rotary:
        feeds |= {"positions": _positions(normed), "key_positions": _positions(keys)}
        feeds["max_position"] = np.array(max(normed.shape[1], keys.shape[1]) - 1)
    attended, attn_weights = model.run(sublayer.attention, feeds, ["output", "attn_weights"])
    feeds = {"hidden_states": x, "attended": attended, "attention_input": normed}
    return model.run(sublayer.leave, feeds)[0], attn_weights


def _positions(states: NDArray[Any]) -> NDArray[np.int64]:
    return np.tile(np.arange(states.shape[1]), (len(states), 1))


class _SegmentedModel:
    """A whole model's graph, whose segments are loaded when they run, one at a time."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._model = onnx.load(folder / MODEL_FILE, load_external_data=False)
        self._segments = dict(_segments(self._model.graph))

    def run(
        self, segment: int, feeds: dict[str, NDArray[Any]], outputs: list[str] | None = None
    ) -> list[NDArray[Any]]:
        """Run a segment, and return some outputs; by default ``output``."""
        import onnxruntime as ort

        graph = self._segments[f"segment_{segment}"]
        model = onnx.ModelProto(ir_version=self._model.ir_version)
        model.opset_import.extend(self._model.opset_import)
        model.graph.CopyFrom(graph)
        main = self._model.graph
        model.graph.input.extend(each for each in main.input if each.name != "segment")
        model.graph.initializer.extend(main.initializer)
        options = ort.SessionOptions()
        options.log_severity_level = _FATAL
        options.add_session_config_entry(
            "session.model_external_initializers_file_folder_path", str(self._folder)
        )
        session = ort.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        results: list[NDArray[Any]] = session.run(outputs or ["output"], feeds)
        return results


def _segments(graph: onnx.GraphProto) -> Iterator[tuple[str, onnx.GraphProto]]:
    """Yield the segments in nested Ifs, with their names."""
    if graph.name.startswith("segment_"):
        yield graph.name, graph
        return
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield from _segments(attribute.g)
