"""The ONNX standard's own tests of its Attention operator, run against the float64 reference.

They come with the package onnx (onnx.backend.test.case.node.attention), with inputs and expected
outputs. Cases whose names end in _expanded are skipped, because they repeat others with the
operator written as smaller operators, on the same numbers.

Two definitions have changed, in the operator's text in onnx.defs and in the expected outputs. Until
onnx 1.21 the softcap came after the mask; now it comes before it, as in polyhead. Until 1.22
causality with nonpad_kv_seqlen, a count of valid keys, was aligned at the first key; now it is
aligned at the last valid one.
"""

import dataclasses
from collections import Counter

import numpy as np
import onnx
import pytest
from onnx import defs, helper, numpy_helper
from onnx.backend.test.case import node as node_cases
from onnx.backend.test.case.node import attention  # noqa: F401 - collects the cases

from polyhead_models.blocks import make_block
from polyhead_models.config import AttentionConfig
from polyhead_models.reference.attention import attend_stages

CASES = [
    case
    for case in node_cases._NodeTestCases
    if case.name.startswith("test_attention_") and "_expanded" not in case.name
]
"""All cases; the tests below drop a case only with a reason from REASONS."""

# whether the diagram in the operator's text, read from the top, has the softcap before the mask
TEXT_23 = defs.get_schema("Attention", 23).doc
SOFTCAP_COMES_FIRST = TEXT_23.index("softcap (if provided)") < TEXT_23.index("at_mask---Add")
IS_ALIGNED_AT_LAST_KEY = (
    "nonpad_kv_seqlen - q_sequence_length" in defs.get_schema("Attention", 24).doc
)

REASONS = {"cap after mask": "onnx 1.21 soft-caps the masked scores, polyhead the scores alone"}
"""Why a case cannot be expressed: its attention is defined differently."""
EXPRESSED = {(1, 21): (60, {"cap after mask": 2}), (1, 22): (64, {}), (1, 23): (93, {})}
"""For each version of onnx: the minimum number of expressed cases, and the maximum number of others
by reason. Newer versions use the last entry."""

# relative and absolute; inputs are of order 1, and intermediate results are rounded too
TOLERANCES = {"float64": (1e-9, 1e-9), "float32": (1e-5, 1e-6), "float16": (4e-3, 2e-3)}
TOLERANCES["bfloat16"] = (3e-2, 2e-2)


@dataclasses.dataclass
class Case:
    """One case, with tensors by the names of the operator's inputs and outputs."""

    attributes: dict
    inputs: dict
    outputs: dict

    @property
    def mode(self):
        return self.attributes.get("qk_matmul_output_mode", 0)

    @property
    def softcap(self):
        return self.attributes.get("softcap", 0.0)


def read(case):
    (node,) = case.model.graph.node
    (opset,) = (o.version for o in case.model.opset_import if not o.domain)
    schema = defs.get_schema("Attention", opset)
    inputs, outputs = case.data_sets[0]
    return Case(
        attributes={a.name: helper.get_attribute_value(a) for a in node.attribute},
        inputs=named(schema.inputs, node.input, inputs),
        outputs=named(schema.outputs, node.output, outputs),
    )


def named(formal, given, tensors):
    """Name the tensors; omitted optional ones have an empty name, and no tensor."""
    present = [f.name for f, name in zip(formal, given, strict=False) if name]
    arrays = [t if isinstance(t, np.ndarray) else numpy_helper.to_array(t) for t in tensors]
    return dict(zip(present, arrays, strict=True))


def reason_to_skip(case):
    """Return why the reference cannot compute this case; "" if it can."""
    if not SOFTCAP_COMES_FIRST and case.softcap and "attn_mask" in case.inputs:
        return "cap after mask"
    return ""


def side_by_side(array):
    """(batch_size, num_heads, seq_len, head_dim) to (batch_size, seq_len, width)."""
    batch_size, num_heads, seq_len, head_dim = array.shape
    return array.swapaxes(1, 2).reshape(batch_size, seq_len, num_heads * head_dim)


def embeddings(case):
    """Return query, key and value with heads side by side; past keys and values come first."""
    arrays = []
    for name in "QKV":
        array = case.inputs[name]
        array = side_by_side(array) if array.ndim == 4 else array
        past = case.inputs.get({"K": "past_key", "V": "past_value"}.get(name))
        arrays.append(array if past is None else np.concatenate([side_by_side(past), array], 1))
    return arrays


def config_of(case, query, key, value):
    attributes = case.attributes
    num_heads = attributes.get("q_num_heads") or case.inputs["Q"].shape[1]
    num_kv_heads = attributes.get("kv_num_heads") or case.inputs["K"].shape[1]
    return AttentionConfig(
        embed_dim=query.shape[-1],
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        head_dim=key.shape[-1] // num_kv_heads,
        v_head_dim=value.shape[-1] // num_kv_heads,
        scale=attributes.get("scale", 0.0),
        softcap=case.softcap,
        has_in_proj=False,
        has_out_proj=False,
    )


def with_visibility(case, config, mask, q_seq_len, kv_seq_len):
    """Express causality and window by the configuration if possible, otherwise by the mask."""
    behind = case.attributes.get("left_window_size", -1)
    ahead = case.attributes.get("right_window_size", -1)
    is_causal = bool(case.attributes.get("is_causal", 0))
    # number of keys before the first query, (batch_size, 1, 1, 1)
    offset = np.zeros((1, 1, 1, 1), np.int64)
    if "past_key" in case.inputs:
        offset += case.inputs["past_key"].shape[2]
    elif "nonpad_kv_seqlen" in case.inputs and IS_ALIGNED_AT_LAST_KEY:
        offset = (case.inputs["nonpad_kv_seqlen"] - q_seq_len).reshape(-1, 1, 1, 1)
    is_expressible = not offset.any() and (behind == ahead or (is_causal and ahead < 0))
    if is_expressible:
        window = max(behind + 1, 0)
        return dataclasses.replace(config, is_causal=is_causal, sliding_window=window), mask
    distance = np.arange(kv_seq_len) - (np.arange(q_seq_len)[:, None] + offset)
    visible = (distance <= 0) if is_causal else np.ones(distance.shape, bool)
    visible &= (behind < 0) | (-distance <= behind)
    visible &= (ahead < 0) | (distance <= ahead)
    if mask is None:
        return config, visible
    if mask.dtype == np.bool_:
        return config, mask & visible
    return config, np.where(visible, mask, -np.inf)


def padded(mask, kv_seq_len):
    """Extend a mask that is shorter than the keys; the keys beyond it are forbidden."""
    if mask is None:
        return None
    if mask.dtype != np.bool_:
        mask = mask.astype(np.float64)
    if mask.shape[-1] == 1:  # broadcast
        return mask
    missing = [(0, 0)] * (mask.ndim - 1) + [(0, kv_seq_len - mask.shape[-1])]
    return np.pad(mask, missing, constant_values=False if mask.dtype == np.bool_ else -np.inf)


def run(case, **changes):
    """Return the reference's stages for this case."""
    query, key, value = embeddings(case)
    config = dataclasses.replace(config_of(case, query, key, value), **changes)
    mask = padded(case.inputs.get("attn_mask"), key.shape[1])
    config, mask = with_visibility(case, config, mask, query.shape[1], key.shape[1])
    return attend_stages(
        make_block(config, {}, source="onnx"),
        query,
        key,
        value,
        attn_mask=mask,
        kv_lengths=case.inputs.get("nonpad_kv_seqlen"),
    )


def expected_stage(case):
    """Return the stage that qk_matmul_output_mode requests."""
    if case.mode == 3:
        return run(case).attn_weights
    if case.mode == 0:
        return run(case, softcap=0.0).scores
    if SOFTCAP_COMES_FIRST:
        return run(case).scores if case.mode == 1 else run(case).masked
    # in onnx 1.21, mode 2 was the last stage before softmax, and mode 1 the mask without softcap
    return run(case, softcap=0.0).masked if case.mode == 1 else run(case).masked


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_reference_equals_the_standard(case):
    case = read(case)
    if reason_to_skip(case):
        return  # test_every_case_is_expressed_or_has_a_reason counts it
    expected = case.outputs["Y"]
    rtol, atol = TOLERANCES[expected.dtype.name]
    output = run(case).output
    if expected.ndim == 4:
        expected = side_by_side(expected)
    np.testing.assert_allclose(output, expected.astype(np.float64), rtol=rtol, atol=atol)
    if "qk_matmul_output" in case.outputs:
        expected = case.outputs["qk_matmul_output"].astype(np.float64)
        np.testing.assert_allclose(expected_stage(case), expected, rtol=rtol, atol=atol)


def test_every_case_is_expressed_or_has_a_reason():
    reasons = Counter(reason_to_skip(read(case)) for case in CASES)
    num_expressed = reasons.pop("", 0)
    version = tuple(int(number) for number in onnx.__version__.split(".")[:2])
    at_least, at_most = EXPRESSED[min(version, max(EXPRESSED))]
    assert num_expressed >= at_least
    assert reasons.keys() <= REASONS.keys()
    assert all(number <= at_most.get(reason, 0) for reason, number in reasons.items())


def test_the_cases_cover_every_stage():
    """Every output mode occurs, so that scores, masked scores and weights are compared."""
    cases = [read(case) for case in CASES]
    assert {c.mode for c in cases if "qk_matmul_output" in c.outputs} == {0, 1, 2, 3}
