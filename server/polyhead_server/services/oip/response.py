"""Writes ModelInferResponses without protobuf, so that each array is copied only once."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, TypeAlias

from polyhead.wire.protobuf import header
from polyhead_server.codec.response import Response
from polyhead_server.inference import grpc_inference_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import Sequence

    from polyhead_server.call import ExecutionInfo

__all__ = ["Output", "streamed_failure", "streamed_response", "write_response"]

Output: TypeAlias = tuple[str, str, tuple[int, ...], bytes | memoryview]
"""Name, datatype, shape, and the elements in their wire form."""

_ID = pb.ModelInferResponse.ID_FIELD_NUMBER
_RAW = pb.ModelInferResponse.RAW_OUTPUT_CONTENTS_FIELD_NUMBER
_RESPONSE = pb.ModelStreamInferResponse.INFER_RESPONSE_FIELD_NUMBER


def write_response(
    executed_by: ExecutionInfo, request_id: str, outputs: Sequence[Output]
) -> Response:
    """Write a ModelInferResponse with these outputs, in this order."""
    head = _head(executed_by.model, executed_by.version, tuple(output[:3] for output in outputs))
    if request_id:
        name = request_id.encode()
        head += header(_ID, len(name)) + name
    parts: list[bytes | memoryview] = [head]
    size = len(head)
    for *_, elements in outputs:
        nbytes = memoryview(elements).nbytes
        prefix = header(_RAW, nbytes)
        parts += (prefix, elements)
        size += len(prefix) + nbytes
    return Response(parts, size)


def streamed_response(response: bytes) -> bytes:
    """Wrap a ModelInferResponse in a ModelStreamInferResponse."""
    return header(_RESPONSE, len(response)) + response


def streamed_failure(message: str, request_id: str, model: str) -> bytes:
    """Write the ModelStreamInferResponse of a request that failed."""
    response = pb.ModelInferResponse(id=request_id, model_name=model)
    return pb.ModelStreamInferResponse(
        error_message=message, infer_response=response
    ).SerializeToString()


@lru_cache(maxsize=1024)
def _head(model: str, version: int, outputs: tuple[tuple[str, str, tuple[int, ...]], ...]) -> bytes:
    """Write all of a response but its id and its raw contents."""
    return pb.ModelInferResponse(
        model_name=model,
        model_version=str(version),
        outputs=[
            pb.ModelInferResponse.InferOutputTensor(name=name, datatype=datatype, shape=shape)
            for name, datatype, shape in outputs
        ],
    ).SerializeToString()
