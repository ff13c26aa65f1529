"""Responses become frozen results."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, fields

import ml_dtypes
import numpy as np
import pytest

from polyhead import ServerError, types
from polyhead._client_shared import parse_attend_response, parse_model, parse_server_info
from polyhead.tensors import to_tensor
from polyhead.v1 import attention_pb2 as pb

OUTPUT = np.array([[[1.5, -2.0]]], np.float32)


def respond(**more):
    return pb.AttendResponse(request_id="r", output=to_tensor(OUTPUT), **more)


def parse(response, query=OUTPUT, output_dtype=None):
    return parse_attend_response(response, query=query, output_dtype=output_dtype)


def test_a_result_without_weights():
    execution = pb.Execution(
        model="m", model_version=3, provider="CPUExecutionProvider", queue_ms=1.5, compute_ms=2.5,
        batch_size=4, kernel=pb.ATTENTION_KERNEL_FUSED,
    )  # fmt: skip
    result = parse(respond(execution=execution))
    np.testing.assert_array_equal(result.output, OUTPUT)
    assert result.attn_weights is None
    assert result.request_id == "r"
    assert result.execution == types.Execution(
        model="m", model_version=3, provider="CPUExecutionProvider", kernel="fused",
        queue_ms=1.5, compute_ms=2.5, batch_size=4,
    )  # fmt: skip


def test_a_result_with_weights_shows_shapes_not_numbers():
    weights = np.full((1, 2, 1, 1), 0.12345, np.float16)
    result = parse(
        respond(
            attn_weights=to_tensor(weights),
            execution=pb.Execution(kernel=pb.ATTENTION_KERNEL_EXPLICIT),
        )
    )
    np.testing.assert_array_equal(result.attn_weights, weights)
    assert result.execution.kernel == "explicit"
    assert "output=<float32 (1, 1, 2)>" in repr(result)
    assert "attn_weights=<float16 (1, 2, 1, 1)>" in repr(result)
    assert "0.12" not in repr(result)


def test_results_are_frozen():
    result = parse(respond())
    with pytest.raises(FrozenInstanceError):
        result.output = OUTPUT
    with pytest.raises(ValueError, match="read-only"):
        result.output[...] = 0


@pytest.mark.parametrize(
    ("query_dtype", "output_dtype", "expected"),
    [
        (ml_dtypes.bfloat16, None, "bfloat16"),
        (ml_dtypes.bfloat16, "bfloat16", "bfloat16"),
        (np.float32, ml_dtypes.bfloat16, "bfloat16"),
        (np.float32, np.dtype(ml_dtypes.bfloat16), "bfloat16"),
        (np.float32, "bfloat16", "float32"),  # NumPy itself has none
    ],
)
def test_bfloat16_comes_back_as_the_callers_own_dtype(query_dtype, output_dtype, expected):
    response = respond()
    response.output.CopyFrom(to_tensor(OUTPUT, pb.DATA_TYPE_BFLOAT16))
    result = parse(response, OUTPUT.astype(query_dtype), output_dtype)
    assert result.output.dtype.name == expected
    assert not result.output.flags.writeable
    np.testing.assert_array_equal(result.output.astype(np.float32), OUTPUT)


def test_only_a_bfloat16_reply_is_made_bfloat16():
    result = parse(respond(), OUTPUT.astype(ml_dtypes.bfloat16), "float32")
    assert result.output.dtype == np.float32


@pytest.mark.parametrize("damage", ["output", "attn_weights"])
def test_a_reply_without_arrays_is_the_servers_fault(damage):
    response = respond(attn_weights=to_tensor(OUTPUT))
    getattr(response, damage).data = b"short"
    with pytest.raises(ServerError, match=r"holds no array: shape .* got 5"):
        parse(response)


def test_a_model_that_is_ready():
    spec = pb.AttentionSpec(embed_dim=6, num_heads=2, head_dim=3, is_causal=True, scale=0.5)
    model = pb.Model(
        name="m", version=2, state=pb.MODEL_STATE_READY, spec=spec, providers=["A", "B"],
        provenance=pb.Provenance(source="random", layer="0"),
    )  # fmt: skip
    info = parse_model(model)
    assert (info.name, info.version, info.is_ready) == ("m", 2, True)
    assert info.providers == ("A", "B")
    assert (info.spec.num_heads, info.spec.is_causal, info.spec.scale) == (2, True, 0.5)
    assert (info.provenance.source, info.provenance.layer) == ("random", "0")


def test_a_model_that_could_not_be_read():
    info = parse_model(
        pb.Model(name="m", version=1, state=pb.MODEL_STATE_UNAVAILABLE, state_reason="damaged")
    )
    assert not info.is_ready
    assert info.state_reason == "damaged"
    assert info.spec is None
    assert info.provenance is None


def test_a_server():
    info = parse_server_info(
        pb.GetServerInfoResponse(
            version="1", onnxruntime_version="2", providers=["A"],
            limits=pb.ServerLimits(max_request_bytes=5, max_queue_size=6),
        )
    )  # fmt: skip
    assert (info.version, info.onnxruntime_version, info.providers) == ("1", "2", ("A",))
    assert (info.limits.max_request_bytes, info.limits.max_queue_size) == (5, 6)


@pytest.mark.parametrize("name", ["AttentionSpec", "Provenance", "ServerLimits"])
def test_flat_messages_and_their_dataclasses_have_the_same_fields(name):
    message = {field.name for field in getattr(pb, name).DESCRIPTOR.fields}
    assert {field.name for field in fields(getattr(types, name))} == message
