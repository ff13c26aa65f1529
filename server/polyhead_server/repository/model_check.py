"""Checks that a graph has the inputs, and computes the outputs, that its metadata describes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from polyhead_server.call import AttentionInputs, AttentionOutputs, WeightsSelection
from polyhead_server.engine.attention_run import AttentionRun
from polyhead_server.errors import ModelFileError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from polyhead_models.config import AttentionConfig
    from polyhead_server.engine.runtime import Model
    from polyhead_server.engine.whole_model import WholeModel

__all__ = ["check_model", "check_whole_model"]

_OPTIONAL_INPUTS = {"average_heads", "heads", "need_weights", "stage", "top_k"}
_FLOATS_WITH_DEFAULTS = {"attn_mask", "past_key", "past_value"}
"""Optional inputs too, except in float16 graphs, where they have no default."""


def check_model(model: Model) -> None:
    """Compare a model with its metadata, which runs every branch of its graph once.

    These runs also warm the model up, because the first run of a branch sets up memory and kernels.
    Raises ModelFileError.
    """
    _check_signature(model)
    try:
        _warm_up(model)
    except ModelFileError:
        raise
    except Exception as error:  # a foreign graph can make ONNX Runtime raise anything
        raise ModelFileError("its graph does not run as those of polyhead export do") from error


def check_whole_model(model: WholeModel) -> None:
    """Run every segment of a whole model once, which also warms it up. Raises ModelFileError."""
    config = model.config
    try:
        for block in model.blocks():
            _warm_up(block)
        for stack in config.stacks:
            states = np.zeros((1, 2, stack.hidden_size), config.dtype)
            for layer in stack.layers:
                for sublayer in layer:
                    feeds = {"hidden_states": states}
                    if sublayer.enter >= 0:
                        _check_states(model.run(sublayer.enter, dict(feeds), None), states)
                    feeds |= {"attended": states, "attention_input": states}
                    _check_states(model.run(sublayer.leave, feeds, None), states)
            if stack.finish >= 0:
                model.run(stack.finish, {"hidden_states": states}, None)
    except ModelFileError:
        raise
    except Exception as error:  # a foreign graph can make ONNX Runtime raise anything
        raise ModelFileError("its graph does not run as those of polyhead export do") from error


def _check_states(actual: NDArray[Any], expected: NDArray[Any]) -> None:
    if actual.shape != expected.shape:
        raise ModelFileError("its graph does not compute what its metadata says")


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
        expected_inputs |= {"max_position"} if config.rotary.scaling == "longrope" else set()
    expected_optional = _OPTIONAL_INPUTS
    if config.dtype == "float16":
        expected_inputs |= _FLOATS_WITH_DEFAULTS
    else:
        expected_optional = expected_optional | _FLOATS_WITH_DEFAULTS
    expected_outputs = {"output", "attn_weights", "top_keys"}
    if config.has_in_proj:
        expected_outputs |= {"projected_key", "projected_value"}
    shapes = model.inputs | model.outputs
    if (
        model.inputs.keys() != expected_inputs
        or model.outputs.keys() != expected_outputs
        or not model.optional_inputs >= expected_optional
        or any(shapes[name][-1:] != [width] for name, width in widths.items())
    ):
        raise ModelFileError("its graph does not match its metadata")


def _warm_up(model: Model) -> None:
    """Run every branch once. Raises ModelFileError if its outputs do not match the metadata."""
    config = model.config
    query, key, value = (
        np.zeros((2, 2, width), config.dtype)
        for width in (config.embed_dim, config.kdim, config.vdim)
    )
    positions = np.zeros((2, 2), np.int64) if config.rotary else None
    no_mask = np.zeros((1, 1, 1, 1), config.dtype)
    full, top_key = WeightsSelection(), WeightsSelection(heads=(0,), top_k=1)
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
        )
        _check_outputs(config, AttentionRun.on(model, inputs).everything(), weights)


def _check_outputs(
    config: AttentionConfig, outputs: AttentionOutputs, weights: WeightsSelection | None
) -> None:
    """Compare the outputs for two sequences of two zero tokens with the expected ones."""
    # All keys are equal, so each gets an equal share of the weight, unless it is masked. Weights
    # are not compared where a bias distinguishes the keys, or a sink takes a share.
    expected = np.full((2, config.num_heads, 2, 2), 0.5)
    if config.sliding_window == 1:
        expected[:, :] = np.eye(2)
    elif config.is_causal:
        expected[:, :, 0] = [1, 0]
    is_uniform = not (config.has_alibi or config.relative_buckets or config.has_sinks)
    fits = outputs.output is not None and outputs.output.shape == (2, 2, config.output_dim)
    if weights is not None:
        if weights.top_k:
            expected = expected[:, :1].max(axis=-1, keepdims=True)
        attn_weights = outputs.attn_weights
        fits = fits and attn_weights is not None and attn_weights.shape == expected.shape
        if fits and attn_weights is not None and is_uniform:
            fits = np.allclose(attn_weights, expected, atol=1e-3)
    if not fits:
        raise ModelFileError("its graph does not compute what its metadata says")
