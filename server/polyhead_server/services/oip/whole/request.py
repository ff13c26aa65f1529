"""Checks, reads and answers ModelInferRequests for whole models."""

from __future__ import annotations

import re
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from polyhead.v1 import attention_pb2 as v1
from polyhead_server.errors import InvalidRequestError
from polyhead_server.forward_call import ForwardCall
from polyhead_server.scheduling.forward_job import ForwardJob, run_forward
from polyhead_server.services.oip.infer_format import INFER
from polyhead_server.services.oip.parameters import read_bool, read_index, timeout_us_of
from polyhead_server.services.oip.response import write_response
from polyhead_server.services.oip.whole.inputs import RequestInputs
from polyhead_server.services.oip.whole.outputs import RequestedOutputs

if TYPE_CHECKING:
    from collections.abc import Iterator

    from polyhead.wire.template import Match
    from polyhead_server.call import ExecutionInfo, RunTimes, Timing
    from polyhead_server.deadline import Deadline
    from polyhead_server.engine.whole_model import WholeModel
    from polyhead_server.forward_call import ForwardOutputs
    from polyhead_server.inference import grpc_inference_pb2 as pb
    from polyhead_server.rpc.call_context import CallContext
    from polyhead_server.scheduling.memory_budget import Reservation
    from polyhead_server.scheduling.scheduler import Scheduler
    from polyhead_server.settings import ServerSettings

__all__ = ["WholeInfer", "WholeInferRequest"]

_SELECTION = re.compile(r"attn_weights\[(\d+)\]\.selection|attn_weights\[(\d+)\]\.query_words")
_NAMES = {
    "texts": "text",
    "text_pairs": "text_pair",
    "token_ids": "input_ids",
    "decoder_token_ids": "decoder_input_ids",
    "lengths": "attention_mask",
    "decoder_lengths": "decoder_attention_mask",
    "memory": "encoder_hidden_states",
    "memory_lengths": "encoder_attention_mask",
    "first_layer": "parameters.first_layer",
    "last_layer": "parameters.last_layer",
}
"""The protocol's names of fields that have other names in a ForwardCall."""


@dataclass(frozen=True, slots=True)
class WholeInfer:
    """The call that all requests of one template share: inputs, outputs and parameters."""

    model: WholeModel
    inputs: RequestInputs
    outputs: RequestedOutputs
    truncate: bool
    last_layer: int | None
    timeout_us: int
    """Microseconds that the caller waits, in addition to the RPC's deadline; 0: not set."""
    settings: ServerSettings

    bound_bytes = 0  # because such calls are never bound

    @classmethod
    def of(
        cls, request: pb.ModelInferRequest, model: WholeModel, settings: ServerSettings
    ) -> WholeInfer:
        """Check all of a request but its raw contents. Raises InvalidRequestError."""
        parameters, inputs = request.parameters, RequestInputs(request, model)
        truncate = "truncate" in parameters and read_bool("truncate", parameters["truncate"])
        last_layer = None
        if "last_layer" in parameters:
            last_layer = read_index("last_layer", parameters["last_layer"])
        outputs = RequestedOutputs(request, model, inputs)
        timeout_us = timeout_us_of(request)
        return cls(model, inputs, outputs, truncate, last_layer, timeout_us, settings)

    def request(self, match: Match[Any]) -> WholeInferRequest:
        """Make the request of one message."""
        return WholeInferRequest(match, self)


class WholeInferRequest:
    """A ModelInferRequest for a whole model."""

    __slots__ = ("_infer", "_match", "request_id", "times")

    def __init__(self, match: Match[Any], infer: WholeInfer) -> None:
        """Raise InvalidRequestError if the id is not UTF-8."""
        self._match = match
        self._infer = infer
        self.request_id = INFER.read_request_id(match.payload(INFER.request_id))
        self.times: RunTimes | None = None
        """The times of the run; None before."""

    async def run(
        self,
        scheduler: Scheduler,
        deadline: Deadline,
        reservation: Reservation,
        context: CallContext,
    ) -> bytes:
        """Run the request, and return the response.

        Raises the errors of run_forward, with the protocol's names of fields.
        """
        infer = self._infer
        job = ForwardJob(infer.model, self, infer.settings, deadline)
        with _protocol_names(infer.outputs.fields):
            return await run_forward(job, scheduler, reservation, context.origin)

    def read(self) -> ForwardCall:
        """Return the call that the request describes. Raises InvalidRequestError."""
        infer, match = self._infer, self._match
        return ForwardCall(
            model=infer.model.name,
            model_version=infer.model.version,
            request_id=self.request_id,
            texts=infer.inputs.texts(match),
            text_pairs=infer.inputs.text_pairs(match),
            arrays=infer.inputs.arrays(match),
            lengths=infer.inputs.lengths(match),
            first_layer=infer.inputs.first_layer,
            truncate=infer.truncate,
            need_output=infer.outputs.need_output,
            hidden_states=infer.outputs.hidden_states,
            weights=tuple(infer.outputs.weights),
            vectors=infer.outputs.vectors,
            last_layer=infer.last_layer,
            output_dtype=v1.DATA_TYPE_FLOAT,
            pads_tokens=infer.outputs.pads_tokens,
        )

    def respond(
        self,
        call: ForwardCall,  # noqa: ARG002 - the outputs are known from the request
        executed_by: ExecutionInfo,
        outputs: ForwardOutputs,
        timing: Timing,  # noqa: ARG002 - the response has no field for it
    ) -> bytes:
        """Write the ModelInferResponse."""
        encoded = self._infer.outputs.write(outputs)
        return write_response(executed_by, self.request_id, encoded).joined()

    def run_bound(self) -> None:
        """Return None, because whole models are never bound."""

    def log_fields(self) -> dict[str, object]:
        """Return the request's fields for the log."""
        return {"request_id": self.request_id, "model": self._infer.model.name}


@contextmanager
def _protocol_names(selections: list[str]) -> Iterator[None]:
    """Name the fields in errors as the protocol does.

    ``selections``: the field of the request that selects each of the call's weights.
    """
    try:
        yield
    except InvalidRequestError as error:
        field = error.field
        if selection := _SELECTION.match(field):
            rest = field[selection.end() :] if selection[1] else ".queries"
            field = selections[int(selection[1] or selection[2])] + rest
        else:
            field = re.sub(r"^first_layer.*", "first_layer", field)  # it is one parameter
            field = re.sub(r"^\w+", lambda name: _NAMES.get(name[0], name[0]), field)
        raise InvalidRequestError(field, error.problem, error.reason, **error.figures) from None
