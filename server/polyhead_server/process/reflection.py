"""The contracts that server reflection describes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from polyhead.v1 import attention_pb2, errors_pb2
from polyhead_server.inference import grpc_inference_pb2

if TYPE_CHECKING:
    from google.protobuf.descriptor import FileDescriptor

__all__ = ["contracts"]


def contracts() -> DescriptorPool:
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
