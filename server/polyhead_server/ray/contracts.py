"""The methods of all services, as their contracts list them."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from polyhead.v1 import attention_pb2
from polyhead_server.grpc_stubs import health_pb2, reflection_pb2, reflection_v1_pb2
from polyhead_server.inference import grpc_inference_pb2

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Method", "methods"]

_CONTRACTS = (
    *(attention_pb2, grpc_inference_pb2, health_pb2),
    *(reflection_pb2, reflection_v1_pb2),
)


class Method(NamedTuple):
    """A method of a service."""

    service: str
    name: str
    """Serve calls the replica's method of this name, so only methods with the same messages may
    share one: those of reflection's two versions."""
    sends_stream: bool
    """Whether the caller sends any number of messages."""
    answers_stream: bool
    """Whether the answer is any number of messages."""

    @property
    def path(self) -> str:
        """As gRPC names it."""
        return f"/{self.service}/{self.name}"


def methods() -> Iterator[Method]:
    """Yield every method of every service."""
    for contract in _CONTRACTS:
        for service in contract.DESCRIPTOR.services_by_name.values():
            for method in service.methods:
                yield Method(
                    service.full_name,
                    method.name,
                    method.client_streaming,
                    method.server_streaming,
                )
