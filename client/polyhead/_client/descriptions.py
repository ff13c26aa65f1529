"""Read the descriptions of models and servers."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, TypeVar

from polyhead import _checks as arguments
from polyhead import types
from polyhead.v1 import attention_pb2 as pb

if TYPE_CHECKING:
    from google.protobuf.message import Message

_OUTCOMES = {
    number: name.removeprefix("MODEL_OUTCOME_").lower() for name, number in pb.ModelOutcome.items()
}
"""Names of the outcomes; a newer server may send others."""


def build_get_model_request(name: str, version: int | None) -> pb.GetModelRequest:
    """Make the message that asks for one model. Raises InvalidArgumentError."""
    return pb.GetModelRequest(
        name=arguments.checked_text("name", name),
        version=arguments.checked_version(version, "version"),
    )


def parse_model(model: pb.Model) -> types.ModelInfo:
    """Read the description of a model."""
    return types.ModelInfo(
        name=model.name,
        version=model.version,
        is_ready=model.state == pb.MODEL_STATE_READY,
        state_reason=model.state_reason,
        spec=_parse_spec(model.spec) if model.HasField("spec") else None,
        provenance=(
            _copied(types.Provenance, model.provenance) if model.HasField("provenance") else None
        ),
        providers=tuple(model.providers),
        whole=_parse_whole(model.whole) if model.HasField("whole") else None,
    )


def parse_change(change: pb.ModelChange) -> types.ModelChange:
    """Read the outcome of a reload for one version of a model."""
    return types.ModelChange(
        name=change.name,
        version=change.version,
        outcome=_OUTCOMES.get(change.outcome, "unspecified"),
        reason=change.reason,
    )


def parse_server_info(response: pb.GetServerInfoResponse) -> types.ServerInfo:
    """Read the description of a server."""
    return types.ServerInfo(
        version=response.version,
        onnxruntime_version=response.onnxruntime_version,
        providers=tuple(response.providers),
        limits=_copied(types.ServerLimits, response.limits),
    )


def _parse_spec(spec: pb.AttentionSpec) -> types.AttentionSpec:
    rotary = _parse_rotary(spec.rotary) if spec.HasField("rotary") else None
    return _copied(types.AttentionSpec, spec, rotary=rotary)


def _parse_rotary(rotary: pb.RotarySpec) -> types.RotarySpec:
    return _copied(
        types.RotarySpec,
        rotary,
        pair_frequencies=tuple(rotary.pair_frequencies),
        long_pair_frequencies=tuple(rotary.long_pair_frequencies),
    )


def _parse_whole(whole: pb.WholeModelSpec) -> types.WholeModelSpec:
    return types.WholeModelSpec(
        stacks=tuple(map(_parse_stack, whole.stacks)),
        has_tokenizer=whole.has_tokenizer,
        int8=tuple(whole.int8),
        weights_error=whole.weights_error,
        truncation_side=whole.truncation_side,
    )


def _parse_stack(stack: pb.StackSpec) -> types.StackSpec:
    layers = tuple(
        types.LayerSpec(
            self_attention=_parse_spec(layer.self_attention),
            cross_attention=(
                _parse_spec(layer.cross_attention) if layer.HasField("cross_attention") else None
            ),
        )
        for layer in stack.layers
    )
    return _copied(
        types.StackSpec,
        stack,
        input_shape=tuple(stack.input_shape),
        patch_size=tuple(stack.patch_size),
        start_token_id=stack.start_token_id if stack.HasField("start_token_id") else None,
        layers=layers,
    )


_Copy = TypeVar(
    "_Copy",
    types.AttentionSpec,
    types.Provenance,
    types.RotarySpec,
    types.ServerLimits,
    types.StackSpec,
)


def _copied(cls: type[_Copy], message: Message, **parsed: object) -> _Copy:
    """Copy a message into the dataclass that has its fields.

    ``parsed``: values for the fields that are messages.
    """
    values = {field.name: getattr(message, field.name) for field in fields(cls)}
    return cls(**(values | parsed))
