"""Calls of the Open Inference Protocol, with plain gRPC."""

from __future__ import annotations

import numpy as np

from polyhead_server.inference import grpc_inference_pb2 as oip

PATH = "/inference.GRPCInferenceService"
TIMEOUT_S = 30


def call(channel, method, **fields):
    """Call a unary method, and return its response."""
    return send(channel, method, getattr(oip, f"{method}Request")(**fields))


def infer(channel, request):
    """Send a ModelInferRequest, and return its response."""
    return send(channel, "ModelInfer", request)


def send(channel, method, request):
    """Send a request, and return its response."""
    response = getattr(oip, f"{method}Response")
    method = channel.unary_unary(
        f"{PATH}/{method}", type(request).SerializeToString, response.FromString
    )
    return method(request, timeout=TIMEOUT_S)


def infer_request(model, query, *outputs, **fields):
    """Make a ModelInferRequest whose only input is the query, sent raw."""
    tensor = oip.ModelInferRequest.InferInputTensor(
        name="query", datatype="FP32", shape=query.shape
    )
    wanted = [oip.ModelInferRequest.InferRequestedOutputTensor(name=name) for name in outputs]
    return oip.ModelInferRequest(
        model_name=model,
        inputs=[tensor],
        outputs=wanted,
        raw_input_contents=[query.tobytes()],
        **fields,
    )


def arrays_of(response):
    """Return the outputs of a ModelInferResponse by name."""
    return {
        output.name: np.frombuffer(raw, np.float32).reshape(output.shape)
        for output, raw in zip(response.outputs, response.raw_output_contents, strict=True)
    }
