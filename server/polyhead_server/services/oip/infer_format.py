"""The wire layout of a ModelInferRequest, whose payloads are its raw contents."""

from __future__ import annotations

from typing import TYPE_CHECKING

from polyhead.wire.protobuf import ABSENT, Extracted, UnsupportedWireFormat, iter_fields, tag
from polyhead_server.codec.message_format import MessageFormat, parse
from polyhead_server.errors import InvalidRequestError
from polyhead_server.inference import grpc_inference_pb2 as pb
from polyhead_server.services.oip.typed_contents import to_raw_contents

if TYPE_CHECKING:
    from collections.abc import Sequence

    from polyhead.wire.protobuf import Span

__all__ = ["INFER", "num_raw_contents"]

_MAX_RAW_CONTENTS = 32
_ID = _MAX_RAW_CONTENTS
_INPUTS = tag(pb.ModelInferRequest.INPUTS_FIELD_NUMBER)


class _InferFormat(MessageFormat):
    """Converts typed contents to raw ones, so that all later code reads one form only."""

    def extract(self, data: bytes, start: int, end: int) -> Extracted:
        """Extract the payloads. Raises UnsupportedWireFormat, for typed contents too."""
        extracted = super().extract(data, start, end)
        skeleton, spans = extracted
        if spans[0] == ABSENT and any(
            field == _INPUTS for field, _, _ in iter_fields(skeleton, 0, len(skeleton))
        ):
            raise UnsupportedWireFormat
        return extracted

    def reserialize(self, data: bytes) -> bytes:
        """Parse a message and write it again, with raw contents. Raises InvalidRequestError."""
        request = parse(pb.ModelInferRequest, data)
        request.DiscardUnknownFields()
        if not request.raw_input_contents:
            request = to_raw_contents(request)
        if len(request.raw_input_contents) > _MAX_RAW_CONTENTS:
            raise InvalidRequestError(
                "raw_input_contents", f"expected at most {_MAX_RAW_CONTENTS}", "TOO_MANY"
            )
        return request.SerializeToString()


INFER = _InferFormat(
    pb.ModelInferRequest,
    {
        tag(pb.ModelInferRequest.RAW_INPUT_CONTENTS_FIELD_NUMBER): tuple(range(_MAX_RAW_CONTENTS)),
        tag(pb.ModelInferRequest.ID_FIELD_NUMBER): _ID,
    },
    num_payloads=_MAX_RAW_CONTENTS + 1,
    request_id=_ID,
    id_field="id",
)
"""Payload n is raw_input_contents[n]; the last one is the request id."""


def num_raw_contents(spans: Sequence[Span]) -> int:
    """Count the raw contents of a request."""
    return sum(1 for span in spans[:_MAX_RAW_CONTENTS] if span != ABSENT)
