"""Prepares ModelInferRequests, and reads and answers those for attention blocks."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from polyhead.wire.protobuf import ABSENT
from polyhead.wire.tensors import encode_elements
from polyhead_server.call import TENSORS
from polyhead_server.codec.message_format import parse
from polyhead_server.codec.request import SingleRequest, check_payload_sizes
from polyhead_server.codec.request_fields import read_call
from polyhead_server.codec.response import tensors_of
from polyhead_server.engine.onnx_model import OnnxModel
from polyhead_server.engine.whole_model import WholeModel
from polyhead_server.errors import InvalidRequestError
from polyhead_server.inference import grpc_inference_pb2 as pb
from polyhead_server.planning.prepared_call import PreparedAttention, prepare_attention
from polyhead_server.services.oip.datatypes import NAMES
from polyhead_server.services.oip.infer_format import INFER, num_raw_contents
from polyhead_server.services.oip.onnx_request import GraphCall
from polyhead_server.services.oip.parameters import timeout_us_of
from polyhead_server.services.oip.response import Output, write_response
from polyhead_server.services.oip.to_attend_request import (
    KV_LENGTHS,
    OUTPUTS,
    VECTORS,
    requested_outputs,
    to_attend_request,
    version_of,
)
from polyhead_server.services.oip.typed_contents import refuse_shared_memory
from polyhead_server.services.oip.whole.request import WholeInfer

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from polyhead.v1.attention_pb2 import DataType
    from polyhead.wire.protobuf import Extracted
    from polyhead.wire.template import Match
    from polyhead_server.call import AttentionOutputs, ExecutionInfo, Timing
    from polyhead_server.codec.response import Response
    from polyhead_server.engine.model import Model
    from polyhead_server.repository.repository import Repository
    from polyhead_server.settings import ServerSettings

    LogFields = dict[str, object]

__all__ = ["AttentionInfer", "InferRequest", "InferPreparer"]


@dataclass(frozen=True, slots=True)
class AttentionInfer:
    """The call that all requests of one template share: a prepared call and its outputs."""

    prepared: PreparedAttention
    outputs: tuple[str, ...]
    """Names of the requested outputs, in the order of the response."""
    timeout_us: int
    """Microseconds that the caller waits, in addition to the RPC's deadline; 0: not set."""

    @property
    def bound_bytes(self) -> int:
        """Estimate of the memory of the bound arrays and their response."""
        return self.prepared.bound_bytes

    def request(self, match: Match[Any]) -> InferRequest:
        """Make the request of one message."""
        return InferRequest(match, self)


class InferRequest(SingleRequest):
    """A ModelInferRequest for an attention block."""

    __slots__ = ("_infer",)

    message_format = INFER

    def __init__(self, match: Match[Any], infer: AttentionInfer) -> None:
        super().__init__(match, infer.prepared.call)
        self._infer = infer

    @property
    def prepared(self) -> PreparedAttention:
        """The prepared call."""
        return self._infer.prepared

    def run_bound(self) -> bytes | None:
        """Run the request at once, if its template is bound; see PreparedAttention."""
        return self._infer.prepared.run_bound(self)

    def write(
        self,
        executed_by: ExecutionInfo,
        outputs: AttentionOutputs,
        timing: Timing,  # noqa: ARG002 - the response has no field for it
    ) -> Response:
        """Write the ModelInferResponse in parts."""
        tensors = {name: (array, dtype) for name, array, dtype in tensors_of(self.call, outputs)}
        for name, kind in VECTORS.items():
            if outputs.vectors and kind in outputs.vectors:
                tensors[name] = outputs.vectors[kind], self.call.output_dtype
        encoded = [_output(name, *tensors[name]) for name in self._infer.outputs]
        return write_response(executed_by, self.request_id, encoded)


def _output(name: str, array: NDArray[Any], dtype: DataType.ValueType) -> Output:
    elements = encode_elements(array, dtype)
    return name, NAMES[dtype], elements.shape, elements.data


class InferPreparer:
    """Prepares calls of attention blocks, of whole models and of other graphs."""

    def __init__(self, repository: Repository, settings: ServerSettings) -> None:
        self._repository = repository
        self._settings = settings

    def __call__(
        self, data: bytes, extracted: Extracted, log_fields: LogFields
    ) -> AttentionInfer | GraphCall | WholeInfer:
        """Prepare a ModelInferRequest.

        Raises the errors of prepare_attention and Repository.runnable.
        """
        request = _parse(extracted.skeleton)
        version = version_of(request.model_version, "model_version")
        model = self._repository.runnable(request.model_name, version, "model_name")
        log_fields["model"] = model.name
        num_raw = num_raw_contents(extracted.spans)
        if isinstance(model, OnnxModel):
            call = GraphCall.of(request, model, self._settings.max_response_bytes)
            _check_count(num_raw, len(request.inputs))
            call.check_sizes(extracted.spans)
            return call
        if isinstance(model, WholeModel):
            infer = WholeInfer.of(request, model, self._settings)
            _check_count(num_raw, len(request.inputs))
            infer.inputs.check_sizes(extracted.spans)
            return infer
        return self._attention(request, model, data, extracted)

    def _attention(
        self, request: pb.ModelInferRequest, model: Model, data: bytes, extracted: Extracted
    ) -> AttentionInfer:
        names = [tensor.name for tensor in request.inputs]
        lengths = b""
        if KV_LENGTHS in names and names.index(KV_LENGTHS) < len(extracted.spans):
            index = names.index(KV_LENGTHS)
            lengths = data[slice(*extracted.spans[index])]
        outputs = requested_outputs(request, OUTPUTS) or ["output"]
        call = read_call(to_attend_request(request, outputs, lengths))
        _check_count(num_raw_contents(extracted.spans), len(names))
        payloads = tuple(names.index(name) if name in names else -1 for name in TENSORS)
        call = replace(call, payloads=payloads)
        check_payload_sizes(call, extracted.spans)
        if KV_LENGTHS in names:  # the plan depends on them, so they belong to the template
            extracted.spans[names.index(KV_LENGTHS)] = ABSENT
        prepared = prepare_attention(call, model, self._settings)
        return AttentionInfer(prepared, tuple(outputs), timeout_us_of(request))


def _parse(skeleton: bytes) -> pb.ModelInferRequest:
    request = parse(pb.ModelInferRequest, skeleton)
    refuse_shared_memory(request)
    for tensor in request.inputs:
        if tensor.HasField("contents"):
            raise InvalidRequestError(
                f"{tensor.name}.contents",
                "are given together with raw_input_contents: send all inputs in one of the two",
                "MIXED",
            )
    return request


def _check_count(num_raw: int, num_inputs: int) -> None:
    if num_raw != num_inputs:
        raise InvalidRequestError(
            "raw_input_contents",
            f"expected one for each of the {num_inputs} inputs; got {num_raw}",
            "COUNT_MISMATCH",
        )
