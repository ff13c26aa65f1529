"""Reads and writes the needed messages of the Open Inference Protocol by their field numbers.

https://kserve.github.io/website/docs/concepts/architecture/data-plane/v2-protocol
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import grpc
import numpy as np

from benchmarks.harness.calls import TIMEOUT_S, UNLIMITED, RawCall

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from benchmarks.harness.serving import ServerProcess

__all__ = ["infer_call", "infer_request", "raw_outputs", "wait_until_ready"]

SERVICE = "/inference.GRPCInferenceService"
READY = b"\x08\x01"
"""ModelReadyResponse(ready=True)."""
POLL_S = 0.1


def wait_until_ready(target: str, model: str, timeout_s: float = TIMEOUT_S) -> None:
    """Poll until the model is ready. Raises TimeoutError."""
    deadline = time.monotonic() + timeout_s
    with grpc.insecure_channel(target) as channel:
        is_ready: grpc.UnaryUnaryMultiCallable[bytes, bytes]
        is_ready = channel.unary_unary(f"{SERVICE}/ModelReady")
        while time.monotonic() < deadline:
            try:
                if is_ready(_text(1, model), timeout=1) == READY:
                    return
            except grpc.RpcError:  # not listening yet, or the model is not loaded
                pass
            time.sleep(POLL_S)
    raise TimeoutError(f"the peer at {target} was not ready within {timeout_s:g} s")


def infer_call(
    served: ServerProcess, model: str, query: NDArray[Any], expected: NDArray[Any]
) -> RawCall:
    """Make a call for a query's output. Sends it once, and checks the output."""
    request = infer_request(model, query)
    with grpc.insecure_channel(served.target, options=UNLIMITED) as channel:
        infer: grpc.UnaryUnaryMultiCallable[bytes, bytes]
        infer = channel.unary_unary(f"{SERVICE}/ModelInfer")
        response = infer(request, timeout=TIMEOUT_S)
    [output] = raw_outputs(response)
    array = np.frombuffer(output, np.float32).reshape(expected.shape)
    np.testing.assert_allclose(array, expected, atol=1e-5)
    return RawCall(served, f"{SERVICE}/ModelInfer", (request,), response_bytes=len(response))


def infer_request(model: str, query: NDArray[Any]) -> bytes:
    """Serialize a ModelInferRequest: one input as raw bytes, one output by name."""
    shape = b"".join(_varint(length) for length in query.shape)
    tensor = _text(1, "query") + _text(2, "FP32") + _bytes(3, shape)
    return (
        _text(1, model)
        + _bytes(5, tensor)
        + _bytes(6, _text(1, "output"))
        + _bytes(7, query.tobytes())
    )


def raw_outputs(response: bytes, field: int = 6) -> list[bytes]:
    """Return the raw_output_contents of a ModelInferResponse: the bytes of each output."""
    values = [value for number, value in _fields(response) if number == field]
    return [value for value in values if isinstance(value, bytes)]


def _text(field: int, value: str) -> bytes:
    return _bytes(field, value.encode())


def _bytes(field: int, value: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(value)) + value


def _varint(number: int) -> bytes:
    digits = []
    while number > 0x7F:
        digits.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*digits, number])


def _fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Yield the number and value of each field of a message."""
    position = 0

    def varint() -> int:
        nonlocal position
        number = shift = 0
        while True:
            byte = message[position]
            position += 1
            number |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return number

    while position < len(message):
        key = varint()
        value: int | bytes = varint()
        if key & 7 == 2:
            assert isinstance(value, int)
            position += value
            value = message[position - value : position]
        yield key >> 3, value
