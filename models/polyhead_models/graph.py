"""The one ONNX graph of an attention block.

Inputs ``query``, ``key``, ``value``, ``attn_mask`` (float, additive, 4 axes; empty: no mask) and
``need_weights`` (bool). Outputs ``output`` and ``attn_weights`` (empty unless the branch that ran
computed them). All tensors are float32.

The projections are shared; around the attention itself stands an ``If``. Its *then* branch spells
the attention out: MatMul, scale, mask, Softmax, MatMul. Its *else* branch is one fused operator
that never holds a q_seq_len x kv_seq_len matrix, and runs whenever neither weights nor a mask are
involved. So weights cost nothing unless they are asked for, and one session holds one copy of the
parameters.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import TensorProto, checker, helper, numpy_helper

from polyhead_models.config import CONFIG_KEY, PROVENANCE_KEY

if TYPE_CHECKING:
    from polyhead_models.config import AttentionBlock, AttentionConfig

__all__ = ["build_model"]

# Stamped explicitly: the onnx package's defaults are newer than older runtimes accept.
OPSET = 23
IR_VERSION = 10
FUSED_DOMAIN = "com.microsoft"


class _Graph:
    """A growing list of nodes and constants; one for the main graph, one for each branch."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []

    def add(
        self,
        op_type: str,
        inputs: list[str],
        output: str,
        **attributes: Any,  # noqa: ANN401 - whatever the operator takes, as in helper.make_node
    ) -> str:
        """Append a node named after its output, and give that name back."""
        self.nodes.append(
            helper.make_node(op_type, inputs, [output], name=f"{output}/{op_type}", **attributes)
        )
        return output

    def constant(self, name: str, value: object, dtype: type[np.generic]) -> str:
        array = np.asarray(value, dtype=dtype)
        self.initializers.append(numpy_helper.from_array(array, name))
        return name

    def branch_on(
        self,
        condition: str,
        outputs: list[str],
        then: onnx.GraphProto,
        otherwise: onnx.GraphProto,
    ) -> None:
        """Append an If."""
        self.nodes.append(
            helper.make_node(
                "If",
                [condition],
                outputs,
                name=f"{outputs[0]}/If",
                then_branch=then,
                else_branch=otherwise,
            )
        )

    def branch(self, name: str, outputs: list[str]) -> onnx.GraphProto:
        """Close this as a branch of an If, which takes its inputs from the graph around it."""
        typed = [helper.make_tensor_value_info(o, TensorProto.FLOAT, None) for o in outputs]
        return helper.make_graph(self.nodes, name, [], typed, self.initializers)


def build_model(block: AttentionBlock) -> bytes:
    """Build the ONNX file of a block: self-contained, checked, the same bytes every time."""
    config = block.config
    graph = _Graph()
    for name in ("q_proj", "k_proj", "v_proj"):
        source = {"q_proj": "query", "k_proj": "key", "v_proj": "value"}[name]
        _project(graph, block, name, source, output=name[0])
    _attend(graph, config)
    if config.has_out_proj:
        _project(graph, block, "out_proj", "context", output="output")
    else:
        graph.add("Identity", ["context"], "output")

    model = helper.make_model(
        helper.make_graph(
            graph.nodes,
            "multi_head_attention",
            inputs=[
                _float("query", "batch_size", "q_seq_len", config.embed_dim),
                _float("key", "batch_size", "kv_seq_len", config.kdim),
                _float("value", "batch_size", "kv_seq_len", config.vdim),
                _float("attn_mask", "mask_batch", "mask_heads", "mask_q", "mask_kv"),
                helper.make_tensor_value_info("need_weights", TensorProto.BOOL, []),
            ],
            outputs=[
                _float("output", "batch_size", "q_seq_len", config.output_dim),
                _float("attn_weights", "weights_batch", "weights_heads", "weights_q", "weights_kv"),
            ],
            initializer=graph.initializers,
            doc_string=__doc__,
        ),
        opset_imports=[helper.make_opsetid("", OPSET), helper.make_opsetid(FUSED_DOMAIN, 1)],
        ir_version=IR_VERSION,
        producer_name="polyhead",
    )
    helper.set_model_props(
        model, {CONFIG_KEY: config.to_json(), PROVENANCE_KEY: block.provenance.to_json()}
    )
    checker.check_model(model, full_check=True)
    return model.SerializeToString(deterministic=True)


def _float(name: str, *shape: str | int) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)


def _project(graph: _Graph, block: AttentionBlock, name: str, source: str, output: str) -> None:
    """Apply a linear map: ``source @ weight.T + bias``."""
    weight = np.ascontiguousarray(block.weights[f"{name}.weight"].T)
    product = f"{output}_unbiased" if f"{name}.bias" in block.weights else output
    graph.add("MatMul", [source, graph.constant(f"{name}.weight", weight, np.float32)], product)
    if f"{name}.bias" in block.weights:
        bias = graph.constant(f"{name}.bias", block.weights[f"{name}.bias"], np.float32)
        graph.add("Add", [product, bias], output)


def _attend(graph: _Graph, config: AttentionConfig) -> None:
    """From q, k and v to the context, by the branch that the request calls for.

    AttentionConfig.runs_fused states the same rule in Python.
    """
    graph.constant("zero", 0, np.int64)
    graph.add("Size", ["attn_mask"], "mask_size")
    graph.add("Greater", ["mask_size", "zero"], "has_mask")
    if config.is_causal:
        graph.add("Shape", ["q"], "q_seq_len", start=1, end=2)
        graph.add("Shape", ["k"], "kv_seq_len", start=1, end=2)
    if not config.fused_operator:
        _explicit_attention(graph, config, ["context", "attn_weights"])
        return

    is_explicit = graph.add("Or", ["need_weights", "has_mask"], "is_explicit")
    if config.is_causal:
        graph.add("Equal", ["q_seq_len", "kv_seq_len"], "is_square_1d")
        graph.add("Squeeze", ["is_square_1d"], "is_square")
        graph.add("Not", ["is_square"], "is_oblong")
        is_explicit = graph.add("Or", ["is_explicit", "is_oblong"], "is_explicit_or_oblong")
    explicit = _Graph()
    _explicit_attention(explicit, config, ["explicit_context", "explicit_attn_weights"])
    graph.branch_on(
        is_explicit,
        ["context", "attn_weights"],
        then=explicit.branch("explicit", ["explicit_context", "explicit_attn_weights"]),
        otherwise=_fused_branch(config),
    )


def _explicit_attention(graph: _Graph, config: AttentionConfig, outputs: list[str]) -> None:
    """Attention spelled out, with the mask or without."""
    # Two whole branches, not one around the mask alone: what crosses the border of a branch
    # cannot be overwritten in place, and the S x S matrix would be held three times over.
    graph.branch_on(
        "has_mask",
        outputs,
        then=_spelled_out_branch(config, is_masked=True),
        otherwise=_spelled_out_branch(config, is_masked=False),
    )


def _spelled_out_branch(config: AttentionConfig, *, is_masked: bool) -> onnx.GraphProto:
    """MatMul, scale, mask, Softmax, MatMul, under names a person can follow in a graph viewer."""
    graph = _Graph()
    heads = graph.constant("heads", [0, 0, config.num_heads, config.head_dim], np.int64)
    for name in ("q", "k", "v"):
        graph.add("Reshape", [name, heads], f"{name}_split")
    graph.add("Transpose", ["q_split"], "q_heads", perm=[0, 2, 1, 3])
    graph.add("Transpose", ["k_split"], "k_heads_transposed", perm=[0, 2, 3, 1])
    graph.add("Transpose", ["v_split"], "v_heads", perm=[0, 2, 1, 3])
    graph.add("MatMul", ["q_heads", "k_heads_transposed"], "scores_unscaled")
    graph.constant("scale", config.scale, np.float32)
    graph.add("Mul", ["scores_unscaled", "scale"], "scores")
    weights = _softmax(graph, config, is_masked=is_masked)
    graph.add("MatMul", [weights, "v_heads"], "context_heads")
    graph.add("Transpose", ["context_heads"], "context_split", perm=[0, 2, 1, 3])
    merged = graph.constant("merged", [0, 0, config.inner_dim], np.int64)
    graph.add("Reshape", ["context_split", merged], "context_merged")
    return graph.branch("masked" if is_masked else "unmasked", ["context_merged", weights])


def _softmax(graph: _Graph, config: AttentionConfig, *, is_masked: bool) -> str:
    """Softmax of the scores, masked; a row that may attend to nothing becomes zeros."""
    biases = [_causal_bias(graph)] if config.is_causal else []
    if not is_masked:  # a causal mask alone forbids no row everything
        scores = graph.add("Add", ["scores", *biases], "scores_masked") if biases else "scores"
        return graph.add("Softmax", [scores], "weights", axis=-1)

    bias = graph.add("Add", ["attn_mask", *biases], "bias") if biases else "attn_mask"
    graph.constant("keys_axis", [-1], np.int64)
    graph.constant("minus_infinity", -np.inf, np.float32)
    graph.constant("no_bias", 0.0, np.float32)
    graph.add("ReduceMax", [bias, "keys_axis"], "row_max", keepdims=1)
    graph.add("Greater", ["row_max", "minus_infinity"], "row_sees_a_key")
    # Softmax of nothing but minus infinities is NaN. Such rows go unmasked, and are then taken
    # times 0, the others times 1.
    graph.add("Where", ["row_sees_a_key", bias, "no_bias"], "bias_finite")
    graph.add("Add", ["scores", "bias_finite"], "scores_masked")
    graph.add("Softmax", ["scores_masked"], "weights_of_all_rows", axis=-1)
    graph.add("Cast", ["row_sees_a_key"], "row_factor", to=TensorProto.FLOAT)
    return graph.add("Mul", ["weights_of_all_rows", "row_factor"], "weights")


def _causal_bias(graph: _Graph) -> str:
    """0 where key j <= query i, minus infinity elsewhere: (q_seq_len, kv_seq_len)."""
    graph.constant("first", 0, np.int64)
    graph.constant("step", 1, np.int64)
    for axis, size in (("row", "q_seq_len"), ("column", "kv_seq_len")):
        graph.add("Squeeze", [size], f"{axis}_count")
        graph.add("Range", ["first", f"{axis}_count", "step"], f"{axis}s")
    graph.constant("last_axis", [1], np.int64)
    graph.add("Unsqueeze", ["rows", "last_axis"], "rows_upright")
    graph.add("GreaterOrEqual", ["rows_upright", "columns"], "is_visible")
    graph.constant("allow", 0.0, np.float32)
    graph.constant("forbid", -np.inf, np.float32)
    return graph.add("Where", ["is_visible", "allow", "forbid"], "causal_bias")


def _fused_branch(config: AttentionConfig) -> onnx.GraphProto:
    """One operator from q, k and v to the context, which stays off the S x S buffer."""
    graph = _Graph()
    graph.constant("empty", np.zeros((0, 0, 0, 0)), np.float32)
    graph.add("Identity", ["empty"], "no_attn_weights")
    inputs, outputs = ["q", "k", "v"], ["fused_context"]
    attributes: dict[str, Any] = {"num_heads": config.num_heads, "scale": config.scale}
    if config.is_causal:
        # No past. Its length is derived here and never taken from a client: the operator reads
        # out of bounds when it lies.
        graph.constant("one", 1, np.int64)
        graph.add("Sub", ["kv_seq_len", "one"], "last_key")
        graph.add("Cast", ["last_key"], "last_key_int32", to=TensorProto.INT32)
        graph.add("Shape", ["k"], "batch_size", start=0, end=1)
        graph.add("Expand", ["last_key_int32", "batch_size"], "last_keys")
        graph.add("Squeeze", ["kv_seq_len"], "kv_seq_len_scalar")
        graph.add("Cast", ["kv_seq_len_scalar"], "total_seq_len", to=TensorProto.INT32)
        no_past = ["", ""]
        inputs += [*no_past, "last_keys", "total_seq_len"]
        outputs += ["present_key", "present_value"]
        attributes["kv_num_heads"] = config.num_heads
    graph.nodes.append(
        helper.make_node(
            config.fused_operator,
            inputs,
            outputs,
            name=f"fused_context/{config.fused_operator}",
            domain=FUSED_DOMAIN,
            **attributes,
        )
    )
    return graph.branch("fused", ["fused_context", "no_attn_weights"])
