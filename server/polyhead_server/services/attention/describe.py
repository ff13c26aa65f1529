"""What the server tells about itself and its models, as messages."""

from __future__ import annotations

from typing import TYPE_CHECKING

from polyhead._version import __version__
from polyhead.v1 import attention_pb2 as pb
from polyhead_server.engine.runtime import Model, onnxruntime_version

if TYPE_CHECKING:
    from google.protobuf.message import Message

    from polyhead_server.repository.repository import AnyModel, UnavailableModel
    from polyhead_server.settings import ServerSettings

__all__ = ["describe_model", "describe_server"]


def describe_model(model: Model | UnavailableModel) -> pb.Model:
    """Describe a model, loaded or not."""
    description = pb.Model(name=model.name, version=model.version)
    if not isinstance(model, Model):
        description.state = pb.MODEL_STATE_UNAVAILABLE
        description.state_reason = model.reason
        return description
    description.state = pb.MODEL_STATE_READY
    description.providers.extend(model.providers)
    _fill(description.spec, model.config)
    _fill(description.provenance, model.provenance)
    return description


def describe_server(models: list[AnyModel], settings: ServerSettings) -> pb.GetServerInfoResponse:
    """Describe the server, with every limit that a request can run into."""
    description = pb.GetServerInfoResponse(
        version=__version__,
        onnxruntime_version=onnxruntime_version(),
        providers=models[0].providers,
    )
    _fill(description.limits, settings)
    return description


def _fill(message: Message, values: object) -> None:
    """Set each field of a message from the attribute of its name; None leaves it unset."""
    message.SetInParent()
    for field in message.DESCRIPTOR.fields:
        value = getattr(values, field.name)
        if field.message_type is None:
            setattr(message, field.name, value)
        elif value is not None:
            _fill(getattr(message, field.name), value)
