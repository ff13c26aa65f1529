"""Messages that describe the server and its models."""

from __future__ import annotations

from typing import TYPE_CHECKING

from polyhead._version import __version__
from polyhead.v1 import attention_pb2 as pb
from polyhead_server.engine.model import Model
from polyhead_server.engine.runtime import onnxruntime_version
from polyhead_server.engine.whole_model import WholeModel
from polyhead_server.repository.repository import UnavailableModel

if TYPE_CHECKING:
    from google.protobuf.message import Message

    from polyhead_server.repository.model_loader import ModelChange
    from polyhead_server.repository.repository import AnyModel
    from polyhead_server.settings import ServerSettings

__all__ = ["describe_model", "describe_server"]


def describe_model(model: AnyModel | UnavailableModel, problem: str = "") -> pb.Model:
    """Describe a block or a whole model, loaded or not.

    ``problem``: why its current files are not served.
    """
    description = pb.Model(name=model.name, version=model.version, state_reason=problem)
    if not isinstance(model, Model | WholeModel):
        assert isinstance(model, UnavailableModel)
        description.state = pb.MODEL_STATE_UNAVAILABLE
        description.state_reason = model.reason
        return description
    description.state = pb.MODEL_STATE_READY
    description.providers.extend(model.providers)
    if isinstance(model, WholeModel):
        _describe_whole(description.whole, model)
    else:
        _fill(description.spec, model.config)
    _fill(description.provenance, model.provenance)
    return description


def _describe_whole(description: pb.WholeModelSpec, model: WholeModel) -> None:
    description.has_tokenizer = model.tokenizer is not None
    if model.tokenizer is not None:
        description.truncation_side = model.config.truncation_side
    description.int8.extend(model.config.int8)
    description.weights_error = model.config.weights_error
    for stack in model.config.stacks:
        spec = description.stacks.add(
            name=stack.name,
            input=stack.input,
            hidden_size=stack.hidden_size,
            output_size=stack.output_size,
            vocab_size=stack.vocab_size,
            max_length=stack.max_length,
            trained_length=stack.trained_length,
            input_shape=stack.input_shape,
            patch_size=stack.patch_size,
            num_image_tokens=stack.num_image_tokens,
            start_token_id=stack.start_token_id if stack.start_token_id >= 0 else None,
            num_token_types=model.num_token_types(stack),
        )
        for layer in stack.layers:
            layer_spec = spec.layers.add()
            for sublayer in layer:
                is_self = sublayer.kind == "self"
                _fill(
                    layer_spec.self_attention if is_self else layer_spec.cross_attention,
                    sublayer.block,
                )


def describe_change(change: ModelChange) -> pb.ModelChange:
    """Describe the change of a version of a model by a reload."""
    outcome = pb.ModelOutcome.Value(f"MODEL_OUTCOME_{change.outcome.upper()}")
    return pb.ModelChange(
        name=change.name, version=change.version, outcome=outcome, reason=change.reason
    )


def describe_server(models: list[AnyModel], settings: ServerSettings) -> pb.GetServerInfoResponse:
    """Describe the server, with every limit that a request can run into."""
    description = pb.GetServerInfoResponse(
        version=__version__,
        onnxruntime_version=onnxruntime_version(),
        providers=models[0].providers if models else (),
    )
    _fill(description.limits, settings)
    return description


def _fill(message: Message, values: object) -> None:
    """Set each field of a message from the attribute of its name; None leaves it unset."""
    message.SetInParent()
    for field in message.DESCRIPTOR.fields:
        value = getattr(values, field.name)
        if isinstance(value, tuple):
            getattr(message, field.name).extend(value)
        elif field.message_type is None:
            setattr(message, field.name, value)
        elif value is not None:
            _fill(getattr(message, field.name), value)
