"""Calls as the bytes that travel: what load generators repeat."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import grpc

from polyhead.v1 import attention_pb2 as pb
from polyhead_server.inference import grpc_inference_pb2 as inference

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from benchmarks.harness.serving import Served

__all__ = ["RawCall", "ask", "attend_bytes", "attend_call", "own_infer_call", "stream_call"]

ATTEND = "/polyhead.v1.AttentionService/Attend"
MODEL_INFER = "/inference.GRPCInferenceService/ModelInfer"
ATTEND_STREAM = "/polyhead.v1.AttentionService/AttendStream"
UNLIMITED = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]
TIMEOUT_S = 60.0


@dataclass(frozen=True)
class RawCall:
    """Requests to one method of a server, and how large their replies are."""

    served: Served
    method: str
    messages: tuple[bytes, ...]
    """Of a stream: all that one stream carries. Else each is a call, and they take turns."""
    is_stream: bool = False
    per_message: int = 1
    """Requests in each message."""
    reply_bytes: int = 0
    """Of all messages' replies together; for generators that do not look at a call's status."""

    @property
    def requests(self) -> int:
        """Requests of one call: of a whole stream, if it is one."""
        return len(self.messages) * self.per_message if self.is_stream else 1

    def frames(self) -> bytes:
        """Give the messages as gRPC puts them into a request's body: flag, length, bytes."""
        return b"".join(b"\0" + len(m).to_bytes(4, "big") + m for m in self.messages)


def attend_bytes(query: NDArray[Any], model: str, *, need_weights: bool = False) -> bytes:
    """Serialize a request for the output of self-attention; the query is of float32."""
    tensor = pb.Tensor(dtype=pb.DATA_TYPE_FLOAT, shape=query.shape, data=query.tobytes())
    request = pb.AttendRequest(model=model, query=tensor)
    if need_weights:
        request.attn_weights.SetInParent()
    return request.SerializeToString()


def ask(served: Served, request: bytes) -> bytes:
    """Send a serialized AttendRequest, and give the reply's bytes. Raises what gRPC raises."""
    with grpc.insecure_channel(served.target, options=UNLIMITED) as channel:
        attend: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(ATTEND)
        reply = attend(request, timeout=TIMEOUT_S)
    assert pb.AttendResponse.FromString(reply).HasField("output")
    return reply


def attend_call(served: Served, requests: Sequence[bytes]) -> RawCall:
    """Make unary calls of serialized AttendRequests. Sends each once, and fails if one fails."""
    reply_bytes = sum(len(ask(served, request)) for request in requests)
    return RawCall(served, ATTEND, tuple(requests), reply_bytes=reply_bytes)


def own_infer_call(served: Served, query: NDArray[Any], model: str) -> RawCall:
    """Make the call of the Open Inference Protocol for the output and all weights.

    Sends it once, and fails if the numbers are not those that AttentionService gives.
    """
    given = inference.ModelInferRequest.InferInputTensor(
        name="query", datatype="FP32", shape=query.shape
    )
    wanted = [
        inference.ModelInferRequest.InferRequestedOutputTensor(name=name)
        for name in ("output", "attn_weights")
    ]
    request = inference.ModelInferRequest(
        model_name=model, inputs=[given], outputs=wanted, raw_input_contents=[query.tobytes()]
    ).SerializeToString()
    with grpc.insecure_channel(served.target, options=UNLIMITED) as channel:
        infer: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(MODEL_INFER)
        reply = infer(request, timeout=TIMEOUT_S)
    numbers = inference.ModelInferResponse.FromString(reply).raw_output_contents
    expected = ask(served, attend_bytes(query, model, need_weights=True))
    response = pb.AttendResponse.FromString(expected)
    assert list(numbers) == [response.output.data, response.attn_weights.data]
    return RawCall(served, MODEL_INFER, (request,), reply_bytes=len(reply))


def stream_call(served: Served, request: bytes, count: int, per_message: int = 1) -> RawCall:
    """Make a stream of ``count`` messages with the same request, or several of it each.

    Sends it once, and fails if one of the requests fails.
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
        answers = list(attend_stream(iter(messages), timeout=TIMEOUT_S))
    replies = [r for data in answers for r in pb.AttendStreamResponse.FromString(data).replies]
    if failed := [reply for reply in replies if not reply.HasField("response")]:
        raise RuntimeError(f"the server refused what it was asked in a stream: {failed[0]}")
    assert len(replies) == count * per_message
    reply_bytes = sum(map(len, answers))
    return RawCall(
        served,
        ATTEND_STREAM,
        tuple(messages),
        is_stream=True,
        per_message=per_message,
        reply_bytes=reply_bytes,
    )
