"""The one ONNX graph of an attention block.

Inputs that must be given:

query, key, value    (batch_size, seq_len, embed_dim or kdim or vdim), in the block's precision
positions            int64 (batch_size, q_seq_len); only of blocks with a rotary embedding
key_positions        int64 (batch_size, kv_seq_len); likewise
max_position         int64 (): highest of all positions; only with longrope or dynamic scaling

Inputs that may be left out (but for attn_mask, past_key and past_value in blocks of float16):

attn_mask            additive, 4 axes; empty: no mask
need_weights         bool: whether attention weights are wanted
past_key, past_value (batch_size, num_kv_heads, past_seq_len, head_dim or v_head_dim): projected
                     keys and values of an earlier run, which stand before those of this one; only
                     with attn_mask, and there needed for more than one sequence
query_index          int64 (q_seq_len,): place of each query in its sequence, if not 0, 1, 2 and so
                     on; only of blocks that depend on it
heads                int64: asks for these heads' weights alone, without output; needs attn_mask
stage                int64, with heads: 1 after softmax, 2 scores, 3 masked scores
average_heads        bool, with heads: the mean over them
top_k                int64, with heads: the largest weights of each row and their keys; 0: all

Outputs: ``output``, ``attn_weights`` and ``top_keys`` (empty unless computed), ``context``, which
out_proj takes: the weighted sums of the values, heads side by side (empty if ``heads`` are given);
and, of blocks that project, norm or rotate them, ``projected_query``, ``projected_key`` and
``projected_value``: queries, keys and values as they are compared and summed, heads side by side.
Split by head, keys and values are a later past.

The projections are shared; around the attention itself stands an ``If``. Its *then* branch spells
the attention out: MatMul, scale, mask, Softmax, MatMul. Its *else* branch is one fused operator,
and runs whenever neither weights nor a mask are involved. So weights cost nothing unless they are
asked for, and one session holds one copy of the parameters.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import TensorProto, helper

from polyhead_models.blocks import PROVENANCE_KEY
from polyhead_models.config import CONFIG_KEY
from polyhead_models.graph.branches import BRANCH_OUTPUTS, explicit_branch, fused_branch
from polyhead_models.graph.heads import angles, normalise, rotate
from polyhead_models.graph.instrument import instrument_branch
from polyhead_models.graph.nodes import FUSED_DOMAIN, Nodes
from polyhead_models.graph.projection import project

if TYPE_CHECKING:
    from polyhead_models.blocks import AttentionBlock
    from polyhead_models.config import AttentionConfig
    from polyhead_models.graph.nodes import StoreWeights

__all__ = ["IR_VERSION", "OPSET", "add_block", "build_model"]

# Stamped explicitly: the onnx package's defaults are newer than older runtimes accept.
OPSET = 23
IR_VERSION = 10


def build_model(block: AttentionBlock, store: StoreWeights | None = None) -> bytes:
    """Build the ONNX file of a block, the same bytes every time.

    It is self-contained unless ``store`` writes the weights elsewhere, see Nodes.
    """
    config = block.config
    model = onnx.ModelProto(ir_version=IR_VERSION, producer_name="polyhead")
    model.opset_import.append(helper.make_opsetid("", OPSET))
    model.opset_import.append(helper.make_opsetid(FUSED_DOMAIN, 1))
    model.graph.name = "multi_head_attention"
    model.graph.doc_string = __doc__
    nodes = Nodes(config.dtype, model.graph, store)
    model.graph.input.extend(_required_inputs(nodes, config))
    model.graph.input.extend(_optional_inputs(nodes, config))
    model.graph.output.extend(_outputs(nodes, config))
    add_block(nodes, block)
    properties = {CONFIG_KEY: config.to_json(), PROVENANCE_KEY: block.provenance.to_json()}
    helper.set_model_props(model, properties)
    return model.SerializeToString(deterministic=True)


def add_block(nodes: Nodes, block: AttentionBlock) -> None:
    """Compute the outputs of a block's graph from its inputs."""
    _project_heads(nodes, block)
    _attend(nodes, block)
    _project_output(nodes, block)


def _required_inputs(nodes: Nodes, config: AttentionConfig) -> list[onnx.ValueInfoProto]:
    numbers, int64 = nodes.number_type, TensorProto.INT64
    inputs = [
        _typed("query", numbers, "batch_size", "q_seq_len", config.embed_dim),
        _typed("key", numbers, "batch_size", "kv_seq_len", config.kdim),
        _typed("value", numbers, "batch_size", "value_seq_len", config.vdim),
    ]
    if config.rotary:
        inputs.append(_typed("positions", int64, "batch_size", "q_seq_len"))
        inputs.append(_typed("key_positions", int64, "batch_size", "kv_seq_len"))
        if config.rotary.depends_on_length:
            inputs.append(_typed("max_position", int64))
    return inputs


def _optional_inputs(nodes: Nodes, config: AttentionConfig) -> list[onnx.ValueInfoProto]:
    """Declare inputs with defaults, which in ONNX are inputs that are also initializers."""
    numbers, int64, boolean = nodes.number_type, TensorProto.INT64, TensorProto.BOOL
    if not nodes.is_narrow:
        # ONNX Runtime 1.28 crashes on float16 inputs with defaults (its issue 32143)
        nodes.number("attn_mask", np.zeros((0, 0, 0, 0)))
        nodes.number("past_key", np.zeros((1, config.num_kv_heads, 0, config.head_dim)))
        nodes.number("past_value", np.zeros((1, config.num_kv_heads, 0, config.v_head_dim)))
    nodes.array("need_weights", np.zeros((), np.bool_))
    nodes.integer("heads", [])
    nodes.integer("stage", 1)
    nodes.array("average_heads", np.zeros((), np.bool_))
    nodes.integer("top_k", 0)
    past = ("past_batch_size", config.num_kv_heads, "past_seq_len", config.v_head_dim)
    inputs = [
        _typed("attn_mask", numbers, "mask_batch", "mask_heads", "mask_q", "mask_kv"),
        _typed("past_key", numbers, *past[:-1], config.head_dim),
        _typed("past_value", numbers, *past),
        _typed("need_weights", boolean),
        _typed("heads", int64, "num_heads_chosen"),
        _typed("stage", int64),
        _typed("average_heads", boolean),
        _typed("top_k", int64),
    ]
    if config.depends_on_index:
        nodes.integer("query_index", [])
        inputs.append(_typed("query_index", int64, "index_seq_len"))
    return inputs


def _outputs(nodes: Nodes, config: AttentionConfig) -> list[onnx.ValueInfoProto]:
    numbers = nodes.number_type
    axes = ("weights_batch", "weights_heads", "weights_q", "weights_kv")
    outputs = [
        _typed("output", numbers, "output_batch", "output_seq_len", config.output_dim),
        _typed("attn_weights", numbers, *axes),
        _typed("top_keys", TensorProto.INT32, *(f"top_{axis}" for axis in axes)),
    ]
    lengths = {"query": "q_seq_len", "key": "kv_seq_len", "value": "value_seq_len"}
    widths = (config.q_proj_dim, config.k_proj_dim, config.v_proj_dim)
    for (name, length), width in zip(lengths.items(), widths, strict=True):
        if name in config.changed_inputs:
            outputs.append(_typed(f"projected_{name}", numbers, "batch_size", length, width))
    outputs.append(
        _typed("context", numbers, "context_batch", "context_seq_len", config.context_dim)
    )
    return outputs


def _typed(name: str, dtype: int, *shape: str | int) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, dtype, shape)


def _project_heads(nodes: Nodes, block: AttentionBlock) -> None:
    """Compute projected_query, projected_key and projected_value, with heads side by side."""
    config, rotary = block.config, block.config.rotary
    for name, source, output, num_heads, positions in (
        ("q", "query", "projected_query", config.num_heads, "positions"),
        ("k", "key", "projected_key", config.num_kv_heads, "key_positions"),
        ("v", "value", "projected_value", config.num_kv_heads, ""),
    ):
        last = source
        # each step's output is named after the step, the last step's is ``output``
        steps = ["projected"] if config.has_in_proj else []
        if name != "v":
            steps += ["normed"] if config.qk_norm_eps else []
            steps += ["rotated"] if rotary else []
        for step in steps:
            result = output if step == steps[-1] else f"{name}_{step}"
            if step == "projected":
                last = project(nodes, block, f"{name}_proj", last, result)
            elif step == "normed":
                last = normalise(nodes, block, f"{name}_norm", last, result, num_heads=num_heads)
            elif rotary:
                turns = angles(nodes, rotary, positions)
                last = rotate(nodes, rotary, last, turns, result, num_heads=num_heads)
        if not steps:
            nodes.add("Identity", [source], output)


def _project_output(nodes: Nodes, block: AttentionBlock) -> None:
    """Compute output from context."""
    if block.config.has_out_proj:
        project(nodes, block, "out_proj", "context", "output")
    else:
        nodes.add("Identity", ["context"], "output")


def _attend(nodes: Nodes, block: AttentionBlock) -> None:
    """Compute context, weights and top keys from the heads, by a branch chosen at run time.

    AttentionConfig.runs_fused implements the same rule in Python.
    """
    config = block.config
    nodes.integer("zero", 0)
    nodes.add("Size", ["attn_mask"], "mask_size")
    nodes.add("Greater", ["mask_size", "zero"], "has_mask")
    if not config.fused_operator:
        _explicit_attention(nodes, block, list(BRANCH_OUTPUTS))
        return
    is_explicit = nodes.add("Or", ["need_weights", "has_mask"], "is_explicit")
    if config.is_causal:
        nodes.add("Shape", ["projected_query"], "q_len", start=1, end=2)
        nodes.add("Shape", ["projected_key"], "k_len", start=1, end=2)
        nodes.add("Equal", ["q_len", "k_len"], "is_square_1d")
        nodes.add("Squeeze", ["is_square_1d"], "is_square")
        nodes.add("Not", ["is_square"], "is_oblong")
        is_explicit = nodes.add("Or", ["is_explicit", "is_oblong"], "is_explicit_or_oblong")
    explicit = nodes.branch()
    outputs = _branch_outputs(nodes, "explicit")
    _explicit_attention(explicit, block, list(outputs))
    nodes.choose(
        is_explicit,
        list(BRANCH_OUTPUTS),
        then=explicit.closed("explicit", outputs),
        otherwise=fused_branch(nodes.branch(), block),
    )


def _branch_outputs(nodes: Nodes, prefix: str) -> dict[str, int]:
    """Name a branch's outputs, and give their types."""
    types = (nodes.number_type, nodes.number_type, TensorProto.INT32)
    return {f"{prefix}_{name}": kind for name, kind in zip(BRANCH_OUTPUTS, types, strict=True)}


def _explicit_attention(nodes: Nodes, block: AttentionBlock, outputs: list[str]) -> None:
    """Add the explicit branches: without a mask, with one, and the instrument."""
    # The branches are complete, not one around the mask alone: ONNX Runtime does not overwrite
    # tensors that cross a branch's border in place, so the score matrix would be held three times.
    masked = nodes.branch()
    masked.integer("no_heads", 0)
    masked.add("Size", ["heads"], "heads_count")
    masked.add("Greater", ["heads_count", "no_heads"], "is_instrument")
    names = _branch_outputs(nodes, "chosen")
    masked.choose(
        "is_instrument",
        list(names),
        then=instrument_branch(nodes.branch(), block),
        otherwise=explicit_branch(nodes.branch(), block, is_masked=True),
    )
    nodes.choose(
        "has_mask",
        outputs,
        then=masked.closed("masked_or_instrument", names),
        otherwise=explicit_branch(nodes.branch(), block, is_masked=False),
    )
