"""Server reflection: describes the contracts of the services, for clients such as grpcurl."""

from __future__ import annotations

from typing import TYPE_CHECKING

import grpc
from google.protobuf.descriptor_pool import DescriptorPool

from polyhead.v1 import attention_pb2, errors_pb2
from polyhead_server.codec.message_format import parse_question
from polyhead_server.grpc_stubs import health_pb2, reflection_pb2
from polyhead_server.grpc_stubs import reflection_v1_pb2 as pb
from polyhead_server.inference import grpc_inference_pb2
from polyhead_server.rpc.handlers import service_handler

if TYPE_CHECKING:
    from google.protobuf.descriptor import FileDescriptor

    from polyhead_server.rpc.call_context import CallContext
    from polyhead_server.rpc.handlers import Connection
    from polyhead_server.rpc.observer import CallObserver

__all__ = ["Reflection"]

_VERSIONS = pb, reflection_pb2
_SERVICE_NAMES = tuple(
    service.full_name
    for version in _VERSIONS
    for service in version.DESCRIPTOR.services_by_name.values()
)
"""The service of today and that of older clients, whose messages are the same."""


class Reflection:
    """Answers questions about the contracts of all services.

    The library's servicer needs stubs of its own, which refuse a protobuf that is older than they
    are, and other packages may have installed such a one.
    """

    def __init__(self, *services: str) -> None:
        """``services``: their full names."""
        self._names = sorted((*services, *_SERVICE_NAMES))
        self._contracts = _contracts()

    def handlers(self, observer: CallObserver) -> list[grpc.GenericRpcHandler]:
        """Return the services as a gRPC server registers them."""
        return [
            service_handler(
                name, {}, conversations={"ServerReflectionInfo": self.answer}, observer=observer
            )
            for name in _SERVICE_NAMES
        ]

    async def answer(self, connection: Connection, _: CallContext) -> None:
        """Answer one question after the other."""
        while (message := await connection.read()) is not None:
            question = parse_question(pb.ServerReflectionRequest, message)
            await connection.write(self._answer(question).SerializeToString())

    def _answer(self, question: pb.ServerReflectionRequest) -> pb.ServerReflectionResponse:
        answer = pb.ServerReflectionResponse(valid_host=question.host, original_request=question)
        kind = question.WhichOneof("message_request")
        try:
            match kind:
                case "list_services":
                    names = answer.list_services_response.service
                    names.extend(pb.ServiceResponse(name=name) for name in self._names)
                case "file_by_filename":
                    file = self._contracts.FindFileByName(question.file_by_filename)
                    _add_files(answer, file)
                case "file_containing_symbol":
                    symbol = question.file_containing_symbol
                    _add_files(answer, self._contracts.FindFileContainingSymbol(symbol))
                case "all_extension_numbers_of_type":  # no contract has extensions
                    name = question.all_extension_numbers_of_type
                    self._contracts.FindMessageTypeByName(name)
                    answer.all_extension_numbers_response.base_type_name = name
                case "file_containing_extension":
                    _refuse(answer, grpc.StatusCode.NOT_FOUND, "no contract has extensions")
                case _:
                    _refuse(answer, grpc.StatusCode.INVALID_ARGUMENT, "expected a question")
        except KeyError:
            _refuse(answer, grpc.StatusCode.NOT_FOUND, "this server has no such file or symbol")
        return answer


def _refuse(answer: pb.ServerReflectionResponse, code: grpc.StatusCode, message: str) -> None:
    number: int = code.value[0]
    answer.error_response.error_code = number
    answer.error_response.error_message = message


def _add_files(answer: pb.ServerReflectionResponse, file: FileDescriptor) -> None:
    """Add a file, and after it all files that it imports."""
    files = {file.name: file}
    todo = [file]
    while todo:
        for needed in todo.pop().dependencies:
            if needed.name not in files:
                files[needed.name] = needed
                todo.append(needed)
    contents = answer.file_descriptor_response.file_descriptor_proto
    contents.extend(found.serialized_pb for found in files.values())


def _contracts() -> DescriptorPool:
    """Gather all contracts in a pool of their own.

    The standard services are not in protobuf's default pool, because other packages register the
    same names there, and a name can be registered only once.
    """
    pool = DescriptorPool()
    names: set[str] = set()
    for module in (attention_pb2, errors_pb2, grpc_inference_pb2, health_pb2, *_VERSIONS):
        _add(module.DESCRIPTOR, pool, names)
    return pool


def _add(file: FileDescriptor, pool: DescriptorPool, names: set[str]) -> None:
    if file.name in names:
        return
    names.add(file.name)
    for needed in file.dependencies:
        _add(needed, pool, names)
    pool.AddSerializedFile(file.serialized_pb)
