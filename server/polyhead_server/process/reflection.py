"""Server reflection: describes the contracts of the services, for clients such as grpcurl."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection, reflection_pb2
from grpc_reflection.v1alpha.reflection_pb2 import ServerReflectionRequest

from polyhead.v1 import attention_pb2, errors_pb2
from polyhead_server.codec.message_format import parse
from polyhead_server.inference import grpc_inference_pb2
from polyhead_server.rpc.handlers import service_handler

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    import grpc
    from google.protobuf.descriptor import FileDescriptor

    from polyhead_server.rpc.call_context import CallContext
    from polyhead_server.rpc.handlers import Connection
    from polyhead_server.rpc.observer import CallObserver

__all__ = ["Reflection"]


class Reflection:
    """Answers by the library's servicer, with our reads and writes."""

    def __init__(self, *services: str) -> None:
        names = (*services, reflection.SERVICE_NAME)
        self._servicer = reflection.aio.ReflectionServicer(names, _contracts())

    def handler(self, observer: CallObserver) -> grpc.GenericRpcHandler:
        """Return the service as a gRPC server registers it."""
        return service_handler(
            reflection.SERVICE_NAME,
            {},
            conversations={"ServerReflectionInfo": self.answer},
            observer=observer,
        )

    async def answer(self, connection: Connection, _: CallContext) -> None:
        """Answer one question after the other."""
        answers: Any = self._servicer.ServerReflectionInfo(_questions(connection), None)
        async for answer in answers:
            await connection.write(answer.SerializeToString())


async def _questions(connection: Connection) -> AsyncGenerator[ServerReflectionRequest, None]:
    while (message := await connection.read()) is not None:
        yield parse(ServerReflectionRequest, message)


def _contracts() -> DescriptorPool:
    """Gather all contracts in a pool of their own.

    The Open Inference Protocol is not in protobuf's default pool, because other packages register
    the same names there, and a name can be registered only once.
    """
    pool = DescriptorPool()
    names: set[str] = set()
    for module in (attention_pb2, errors_pb2, grpc_inference_pb2, health_pb2, reflection_pb2):
        _add(module.DESCRIPTOR, pool, names)
    return pool


def _add(file: FileDescriptor, pool: DescriptorPool, names: set[str]) -> None:
    if file.name in names:
        return
    names.add(file.name)
    for needed in file.dependencies:
        _add(needed, pool, names)
    pool.AddSerializedFile(file.serialized_pb)
