"""Checks that a graph has the inputs, and computes the outputs, that its metadata describes."""

from __future__ import annotations

import math
from contextlib import contextmanager
from threading import Timer
from typing import TYPE_CHECKING, Any

import numpy as np

from polyhead_server.call import AttentionInputs, AttentionOutputs, WeightsSelection
from polyhead_server.engine.runs.attention_run import AttentionRun
from polyhead_server.errors import ModelFileError
from polyhead_server.head_vectors import KINDS, VectorsSelection

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from polyhead_models.config import AttentionConfig
    from polyhead_server.engine.model import Model, RunOptions

__all__ = ["check_model", "check_size", "limited_runs", "run_every_branch"]

MAX_WIDTH = 1 << 20
"""Largest width of a block without weights, whose files say nothing of its size."""

_OPTIONAL_INPUTS = {"average_heads", "heads", "need_weights", "stage", "top_k"}
_FLOATS_WITH_DEFAULTS = {"attn_mask", "past_key", "past_value"}
"""Optional inputs too, except in float16 graphs, where they have no default."""


def check_model(model: Model, num_bytes: int, max_seconds: float) -> None:
    """Compare a model with its metadata, which runs every branch of its graph once.

    These runs also warm the model up, because the first run of a branch sets up memory and kernels.
    ``num_bytes``: size of the model's files. Raises ModelFileError, also if the runs have not ended
    after ``max_seconds``.
    """
    _check_signature(model)
    check_size(model.config, num_bytes)
    with limited_runs(model.run_options(0), max_seconds) as options:
        run_every_branch(model, options)


def check_size(config: AttentionConfig, num_bytes: int) -> None:
    """Raise ModelFileError if a block is larger than its files hold, before it takes memory."""
    shapes = config.weight_shapes().values()
    widths = config.embed_dim, config.kdim, config.vdim, config.context_dim
    if max(map(math.prod, shapes), default=0) > num_bytes or max(widths) > MAX_WIDTH:
        raise ModelFileError("its metadata describe larger weights than its files hold")


@contextmanager
def limited_runs(options: RunOptions, max_seconds: float) -> Iterator[RunOptions]:
    """End runs after some time, and raise ModelFileError instead of their errors."""
    timer = Timer(max_seconds, setattr, (options, "terminate", True))
    timer.daemon = True
    timer.start()
    try:
        yield options
    except ModelFileError:
        raise
    except Exception as error:  # a foreign graph can make ONNX Runtime raise anything
        if options.terminate:
            raise ModelFileError(f"its graph runs for more than {max_seconds:g} s") from error
        raise ModelFileError("its graph does not run as those of polyhead export do") from error
    finally:
        timer.cancel()


def _check_signature(model: Model) -> None:
    config = model.config
    widths = {
        "query": config.embed_dim,
        "key": config.kdim,
        "value": config.vdim,
        "output": config.output_dim,
    }
    expected_inputs = {"query", "key", "value"}
    if config.rotary:
        expected_inputs |= {"positions", "key_positions"}
        expected_inputs |= {"max_position"} if config.rotary.depends_on_length else set()
    expected_optional = _OPTIONAL_INPUTS
    if config.dtype == "float16":
        expected_inputs |= _FLOATS_WITH_DEFAULTS
    else:
        expected_optional = expected_optional | _FLOATS_WITH_DEFAULTS
    expected_outputs = {"output", "attn_weights", "top_keys"}
    if config.has_in_proj:
        expected_outputs |= {"projected_key", "projected_value"}
    newer_outputs = {f"projected_{name}" for name in config.changed_inputs} | {"context"}
    shapes = model.inputs | model.outputs
    if (
        model.inputs.keys() != expected_inputs
        # graphs of older exporters give no vectors of heads
        or model.outputs.keys() not in (expected_outputs, expected_outputs | newer_outputs)
        or not model.optional_inputs >= expected_optional
        or any(shapes[name][-1:] != [width] for name, width in widths.items())
    ):
        raise ModelFileError("its graph does not match its metadata")


def run_every_branch(model: Model, options: RunOptions) -> None:
    """Run every branch of a block once. Raises ModelFileError if an output has another form."""
    config = model.config
    query, key, value = (
        np.zeros((2, 2, width), config.dtype)
        for width in (config.embed_dim, config.kdim, config.vdim)
    )
    positions = np.zeros((2, 2), np.int64) if config.rotary else None
    no_mask = np.zeros((1, 1, 1, 1), config.dtype)
    full, top_key = WeightsSelection(), WeightsSelection(heads=(0,), top_k=1)
    # an older graph has no context, and its queries are not outputs
    vectors = VectorsSelection(KINDS) if "context" in model.output_names else None
    for mask, weights in ((None, None), (None, full), (no_mask, full), (None, top_key)):
        inputs = AttentionInputs(
            query,
            key,
            value,
            mask,
            kv_lengths=None,
            weights=weights,
            positions=positions,
            key_positions=positions,
            vectors=vectors,
        )
        _check_outputs(config, AttentionRun.on(model, inputs, options).everything(), inputs)


def _check_outputs(
    config: AttentionConfig, outputs: AttentionOutputs, inputs: AttentionInputs
) -> None:
    """Compare the outputs for two sequences of two zero tokens with the expected ones."""
    weights, vectors = inputs.weights, inputs.vectors
    fits = outputs.output is not None and outputs.output.shape == (2, 2, config.output_dim)
    if vectors is not None:
        expected = {kind: vectors.shape_of(kind, config, 2, 2, 2) for kind in vectors.kinds}
        actual = {kind: array.shape for kind, array in (outputs.vectors or {}).items()}
        fits = fits and actual == expected
    if weights is not None:
        num_heads, num_keys = (1, 1) if weights.top_k else (config.num_heads, 2)
        attn_weights = outputs.attn_weights
        # before the expected weights are made, which take memory for each head
        fits = (
            fits and attn_weights is not None and attn_weights.shape == (2, num_heads, 2, num_keys)
        )
        if fits and attn_weights is not None:
            fits = _are_uniform(config, attn_weights)
    if not fits:
        raise ModelFileError("its graph does not compute what its metadata says")


def _are_uniform(config: AttentionConfig, attn_weights: NDArray[Any]) -> bool:
    """Whether equal keys have equal weights, unless they are masked."""
    if config.has_alibi or config.relative_buckets or config.has_sinks:
        return True  # a bias distinguishes the keys, or a sink takes a share
    expected = np.full((2, 2), 0.5)
    if config.sliding_window == 1:
        expected = np.eye(2)
    elif config.is_causal:
        expected[0] = [1, 0]
    if attn_weights.shape[-1] == 1:  # the largest of each row
        expected = expected.max(axis=-1, keepdims=True)
    return np.allclose(attn_weights, expected, atol=1e-3)
