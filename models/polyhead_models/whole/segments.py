"""The parts of a whole model's graph that run by themselves, one at a time.

A run computes one segment, whose number is the input ``segment``. So a caller can stop after any
layer, read what flows between layers, and change it. All segments lie in one graph, because then
one session holds them: with one thread pool and one arena, where a session for each segment has its
own (32 layers on 16 CPUs: 960 threads). An If for each half of the segments chooses between them;
five of them, one in the other, cost less than can be measured (24 segments, one token).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from onnx import TensorProto, helper

if TYPE_CHECKING:
    from collections.abc import Callable

    import onnx

    from polyhead_models.graph.nodes import Nodes

__all__ = ["INPUTS", "OUTPUTS", "Segments", "declare_inputs"]

_HEADS = ("projected_query", "projected_key", "projected_value", "context")
OUTPUTS = ("output", "attn_weights", "top_keys", *_HEADS)
"""Outputs of every segment. Outputs that a segment does not compute are empty."""
_NUMBERS = "numbers"
_TYPES = {"int64": TensorProto.INT64, "bool": TensorProto.BOOL}
INPUTS = {
    "segment": ("int64", ()),
    # of the stacks
    "token_ids": ("int64", ("batch_size", "seq_len")),
    "token_type_ids": ("int64", ("batch_size", "seq_len")),
    "pixel_values": (_NUMBERS, ("batch_size", "channels", "height", "width")),
    "input_features": (_NUMBERS, ("batch_size", "bins", "frames")),
    # between a layer's blocks: hidden states, what a block made of them, and was given
    "hidden_states": (_NUMBERS, ("batch_size", "seq_len", "hidden_size")),
    "attended": (_NUMBERS, ("batch_size", "seq_len", "hidden_size")),
    "attention_input": (_NUMBERS, ("batch_size", "seq_len", "hidden_size")),
    # of the blocks, as graph.model documents them
    "query": (_NUMBERS, ("batch_size", "q_seq_len", "q_width")),
    "key": (_NUMBERS, ("batch_size", "kv_seq_len", "k_width")),
    "value": (_NUMBERS, ("batch_size", "value_seq_len", "v_width")),
    "positions": ("int64", ("batch_size", "q_seq_len")),
    "key_positions": ("int64", ("batch_size", "kv_seq_len")),
    "max_position": ("int64", ()),
    "attn_mask": (_NUMBERS, ("mask_batch", "mask_heads", "mask_q", "mask_kv")),
    "past_key": (_NUMBERS, ("past_batch", "num_kv_heads", "past_seq_len", "head_dim")),
    "past_value": (_NUMBERS, ("past_batch", "num_kv_heads", "past_seq_len", "v_head_dim")),
    "need_weights": ("bool", ()),
    "query_index": ("int64", ("index_seq_len",)),
    "heads": ("int64", ("num_heads_chosen",)),
    "stage": ("int64", ()),
    "average_heads": ("bool", ()),
    "top_k": ("int64", ()),
}
"""Type and axes of each input. All but ``segment`` may be left out where a segment does not need
them."""
_DEFAULTS = {"stage": 1}
_DEFAULT_SHAPES = {"token_type_ids": (1, 1)}
"""Shapes of defaults that are not empty: type 0, which each token of each sequence then has."""


def declare_inputs(nodes: Nodes, graph: onnx.GraphProto) -> None:
    """Declare the inputs; those with a default are empty or zero if they are left out."""
    for name, (dtype, axes) in INPUTS.items():
        number_type = nodes.number_type if dtype == _NUMBERS else _TYPES[dtype]
        graph.input.append(helper.make_tensor_value_info(name, number_type, axes))
        if name == "segment":
            continue
        shape = _DEFAULT_SHAPES.get(name, (0,) * len(axes))
        default = np.full(shape, _DEFAULTS.get(name, 0))
        if dtype == _NUMBERS:
            # ONNX Runtime 1.28 crashes on float16 inputs with defaults (its issue 32143)
            if not nodes.is_narrow:
                nodes.number(name, default)
        elif dtype == "bool":
            nodes.array(name, default.astype(np.bool_))
        else:
            nodes.integer(name, default)


class Segments:
    """Collects segments, and joins them to one graph."""

    def __init__(self, nodes: Nodes) -> None:
        """``nodes``: the main graph."""
        self._nodes = nodes
        self._graphs: list[onnx.GraphProto] = []

    def add(self, build: Callable[[Nodes], None], *, is_attention: bool = False) -> int:
        """Add a segment, and return its number.

        ``build`` adds the nodes that compute ``output`` and, of a block, the other outputs.
        """
        nodes = self._nodes.branch()
        build(nodes)
        if not is_attention:
            nodes.number("attn_weights", np.zeros((0, 0, 0, 0)))
            nodes.array("top_keys", np.zeros((0, 0, 0, 0), np.int32))
            for name in _HEADS:
                nodes.number(name, np.zeros((0, 0, 0)))
        self._graphs.append(nodes.closed(f"segment_{len(self._graphs)}", self._types(OUTPUTS)))
        return len(self._graphs) - 1

    def join(self) -> None:
        """Compute the outputs of the chosen segment, in the main graph."""
        self._choose(self._nodes, 0, len(self._graphs), OUTPUTS)

    def _choose(self, nodes: Nodes, first: int, end: int, outputs: tuple[str, ...]) -> None:
        middle = (first + end) // 2
        limit = nodes.integer(f"segment_{middle}", middle)
        is_lower = nodes.add("Less", ["segment", limit], f"is_below_{middle}")
        lower, upper = self._half(nodes, first, middle), self._half(nodes, middle, end)
        nodes.choose(is_lower, list(outputs), then=lower, otherwise=upper)

    def _half(self, nodes: Nodes, first: int, end: int) -> onnx.GraphProto:
        if end - first == 1:
            return self._graphs[first]
        half = nodes.branch()
        outputs = tuple(f"{name}_{first}_{end}" for name in OUTPUTS)
        self._choose(half, first, end, outputs)
        return half.closed(f"segments_{first}_{end}", self._types(outputs))

    def _types(self, outputs: tuple[str, ...]) -> dict[str, int]:
        numbers = self._nodes.number_type
        types = (numbers, numbers, TensorProto.INT32, *[numbers] * len(_HEADS))
        return dict(zip(outputs, types, strict=True))
