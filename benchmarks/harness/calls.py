"""Calls as serialized messages, which load generators repeat."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import grpc

from polyhead.v1 import attention_pb2 as pb
from polyhead_server.inference import grpc_inference_pb2 as inference

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from benchmarks.harness.serving import ServerProcess

__all__ = [
    "inference_count",
    "RawCall",
    "send_request",
    "serialize_request",
    "attend_call",
    "polyhead_infer_call",
    "stream_call",
]

ATTEND = "/polyhead.v1.AttentionService/Attend"
MODEL_STATISTICS = "/inference.GRPCInferenceService/ModelStatistics"
MODEL_INFER = "/inference.GRPCInferenceService/ModelInfer"
ATTEND_STREAM = "/polyhead.v1.AttentionService/AttendStream"
UNLIMITED = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]
TIMEOUT_S = 60.0


@dataclass(frozen=True)
class RawCall:
    """Requests to one method of a server, and the size of their responses."""

    served: ServerProcess
    method: str
    messages: tuple[bytes, ...]
    """A stream carries all of them. Otherwise each is a call, and they take turns."""
    is_stream: bool = False
    per_message: int = 1
    """Number of requests in each message."""
    response_bytes: int = 0
    """Size of the responses to all messages, for generators that ignore a call's status."""

    @property
    def requests(self) -> int:
        """Number of requests in one call, which may be a whole stream."""
        return len(self.messages) * self.per_message if self.is_stream else 1

    def frames(self) -> bytes:
        """Return the messages in gRPC's frames: flag, length, bytes."""
        return b"".join(b"\0" + len(m).to_bytes(4, "big") + m for m in self.messages)


def serialize_request(query: NDArray[Any], model: str, *, need_weights: bool = False) -> bytes:
    """Serialize a request for self-attention over a float32 query."""
    tensor = pb.Tensor(dtype=pb.DATA_TYPE_FLOAT, shape=query.shape, data=query.tobytes())
    request = pb.AttendRequest(model=model, query=tensor)
    if need_weights:
        request.attn_weights.SetInParent()
    return request.SerializeToString()


def send_request(served: ServerProcess, request: bytes) -> bytes:
    """Send a serialized AttendRequest. Returns the response's bytes. Raises grpc.RpcError."""
    with grpc.insecure_channel(served.target, options=UNLIMITED) as channel:
        attend: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(ATTEND)
        response = attend(request, timeout=TIMEOUT_S)
    assert pb.AttendResponse.FromString(response).HasField("output")
    return response


def attend_call(served: ServerProcess, requests: Sequence[bytes]) -> RawCall:
    """Make unary calls from serialized AttendRequests. Sends each once to check it."""
    response_bytes = sum(len(send_request(served, request)) for request in requests)
    return RawCall(served, ATTEND, tuple(requests), response_bytes=response_bytes)


def polyhead_infer_call(served: ServerProcess, query: NDArray[Any], model: str) -> RawCall:
    """Make a ModelInfer call for the output and all weights.

    Sends it once, and checks that the arrays equal those of AttentionService.
    """
    query_tensor = inference.ModelInferRequest.InferInputTensor(
        name="query", datatype="FP32", shape=query.shape
    )
    outputs = [
        inference.ModelInferRequest.InferRequestedOutputTensor(name=name)
        for name in ("output", "attn_weights")
    ]
    request = inference.ModelInferRequest(
        model_name=model,
        inputs=[query_tensor],
        outputs=outputs,
        raw_input_contents=[query.tobytes()],
    ).SerializeToString()
    with grpc.insecure_channel(served.target, options=UNLIMITED) as channel:
        infer: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(MODEL_INFER)
        response = infer(request, timeout=TIMEOUT_S)
    arrays = inference.ModelInferResponse.FromString(response).raw_output_contents
    expected = send_request(served, serialize_request(query, model, need_weights=True))
    attended = pb.AttendResponse.FromString(expected)
    assert list(arrays) == [attended.output.data, attended.attn_weights.data]
    return RawCall(served, MODEL_INFER, (request,), response_bytes=len(response))


def inference_count(served: ServerProcess, model: str) -> int:
    """Return the server's count of a model's inferences, from ModelStatistics."""
    request = inference.ModelStatisticsRequest(name=model).SerializeToString()
    with grpc.insecure_channel(served.target) as channel:
        statistics: grpc.UnaryUnaryMultiCallable[bytes, bytes]
        statistics = channel.unary_unary(MODEL_STATISTICS)
        response = statistics(request, timeout=TIMEOUT_S)
    models = inference.ModelStatisticsResponse.FromString(response).model_stats
    return sum(stats.inference_count for stats in models)


def stream_call(served: ServerProcess, request: bytes, count: int, per_message: int = 1) -> RawCall:
    """Make a stream of ``count`` messages, each with ``per_message`` copies of a request.

    Sends it once, and raises RuntimeError if a request fails.
    """
    call = pb.AttendRequest.FromString(request)
    messages = []
    for first in range(0, count * per_message, per_message):
        ids = range(first + 1, first + per_message + 1)
        streamed = [pb.StreamedRequest(id=number, call=call) for number in ids]
        messages.append(pb.AttendStreamRequest(requests=streamed).SerializeToString())
    with grpc.insecure_channel(served.target, options=UNLIMITED) as channel:
        attend_stream: grpc.StreamStreamMultiCallable[bytes, bytes]
        attend_stream = channel.stream_stream(ATTEND_STREAM)
        responses = list(attend_stream(iter(messages), timeout=TIMEOUT_S))
    replies = [r for data in responses for r in pb.AttendStreamResponse.FromString(data).replies]
    if failed := [reply for reply in replies if not reply.HasField("response")]:
        raise RuntimeError(f"the server refused a request in a stream: {failed[0]}")
    assert len(replies) == count * per_message
    response_bytes = sum(map(len, responses))
    return RawCall(
        served,
        ATTEND_STREAM,
        tuple(messages),
        is_stream=True,
        per_message=per_message,
        response_bytes=response_bytes,
    )
