"""Find a response in a message: recognise its template, or parse the message if it is new."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from google.protobuf.message import DecodeError

from polyhead.errors import ServerError
from polyhead.v1 import attention_pb2 as pb
from polyhead.wire.protobuf import (
    ABSENT,
    VARINT,
    UnsupportedWireFormat,
    extract_payloads,
    reserialize,
    tag,
)
from polyhead.wire.template import Match, TemplateCache
from polyhead.wire.tensors import TensorError, TensorLayout

if TYPE_CHECKING:
    from collections.abc import Callable

    from google.protobuf.message import Message

    from polyhead.wire.protobuf import Payloads, Span

TENSORS = ("output", "attn_weights", "top_keys")
"""A response's tensors; payload n is the data of tensor n."""
REQUEST_ID, EXECUTION, STREAM_ID, ERROR = 3, 4, 5, 6
FIRST_ROW = STREAM_ID
"""Indices of a response's other payloads. The id and the execution differ in each response, so they
are payloads, and the rest is constant."""
VECTORS = {"query": 7, "key": 8, "value": 9, "context": 10}
"""Indices of the payloads that hold vectors of heads, by kind."""
_NUM_PAYLOADS = 11
_DATA = tag(pb.Tensor.DATA_FIELD_NUMBER)

Layouts: TypeAlias = "dict[str, TensorLayout] | None"
ResponseMatch: TypeAlias = "Match[Layouts]"
"""Responses of one template. The value has the layouts of the tensors; None for an error."""


@dataclass(frozen=True)
class _ResponseFormat:
    """The messages of a method that hold a response."""

    message_type: type[Message]
    payloads: Payloads
    find_response: Callable[[Any], pb.AttendResponse | None]
    """Returns a message's response, if it has one."""
    templates: TemplateCache[Layouts]
    varint: int = -1
    """Index of the payload that is a varint; -1 if no payload is one."""

    def match(self, data: bytes, start: int = 0, end: int | None = None) -> ResponseMatch:
        """Recognise or parse the message in ``data[start:end]``. Raises ServerError."""
        match = self.templates.match(data, start, end)
        if match is None:
            try:
                match = self._add(data, start, len(data) if end is None else end)
            except TensorError as error:
                raise ServerError(f"the server's reply holds no array: {error}") from error
            except (DecodeError, UnsupportedWireFormat) as error:
                raise unreadable_error() from error
        return match

    def _add(self, data: bytes, start: int, end: int) -> ResponseMatch:
        try:
            response, spans = self._extract(data, start, end)
        except UnsupportedWireFormat:
            data, start = reserialize(self.message_type, data[start:end]), 0
            end = len(data)
            response, spans = self._extract(data, start, end)
        layouts: Layouts = None
        if response is not None:
            layouts = {
                name: TensorLayout.of(getattr(response, name))
                for name in TENSORS
                if response.HasField(name)  # type: ignore[arg-type] # one of its fields
            }
            layouts |= {
                f"head_vectors.{kind}": TensorLayout.of(getattr(response.head_vectors, kind))
                for kind in VECTORS
                if response.head_vectors.HasField(kind)  # type: ignore[arg-type] # one of its fields
            }
            for name, layout in layouts.items():
                first, last = spans[payload_of(name)]
                layout.check_size(last - first)
        varints = () if self.varint < 0 else (self.varint,)
        return self.templates.add(data, start, end, spans, value=layouts, varints=varints)

    def _extract(
        self, data: bytes, start: int, end: int
    ) -> tuple[pb.AttendResponse | None, list[Span]]:
        """Return a message's response without its payloads, and the payloads' spans."""
        skeleton, spans = extract_payloads(data, start, end, self.payloads, _NUM_PAYLOADS)
        response = self.find_response(self.message_type.FromString(skeleton))
        if response is not None and spans[ERROR] != ABSENT:  # protobuf takes the last of the two
            raise UnsupportedWireFormat
        return response, spans


def payload_of(name: str) -> int:
    """Return the index of the payload that is the data of a tensor, by its name in the layouts."""
    return TENSORS.index(name) if name in TENSORS else VECTORS[name.removeprefix("head_vectors.")]


MIN_VIEW_BYTES = 64 * 1024
"""Arrays of fewer bytes are copied from their response."""


def unreadable_error() -> ServerError:
    """Make the error for bytes that are not a response."""
    return ServerError("the server's reply could not be read")


def _first_reply(message: pb.AttendStreamResponse) -> pb.AttendResponse | None:
    [reply] = message.replies
    return reply.response if reply.HasField("response") else None


def _response_payloads() -> dict[int, int | Payloads]:
    return {
        tag(pb.AttendResponse.OUTPUT_FIELD_NUMBER): {_DATA: 0},
        tag(pb.AttendResponse.ATTN_WEIGHTS_FIELD_NUMBER): {_DATA: 1},
        tag(pb.AttendResponse.TOP_KEYS_FIELD_NUMBER): {_DATA: 2},
        tag(pb.AttendResponse.HEAD_VECTORS_FIELD_NUMBER): {
            tag(pb.HeadVectors.DESCRIPTOR.fields_by_name[kind].number): {_DATA: index}
            for kind, index in VECTORS.items()
        },
        tag(pb.AttendResponse.REQUEST_ID_FIELD_NUMBER): REQUEST_ID,
        tag(pb.AttendResponse.EXECUTION_FIELD_NUMBER): EXECUTION,
    }


ATTEND = _ResponseFormat(
    pb.AttendResponse, _response_payloads(), lambda message: message, TemplateCache()
)
STREAMED = _ResponseFormat(
    pb.AttendStreamResponse,
    {
        tag(pb.AttendStreamResponse.REPLIES_FIELD_NUMBER): {
            tag(pb.StreamedReply.ID_FIELD_NUMBER, VARINT): STREAM_ID,
            tag(pb.StreamedReply.RESPONSE_FIELD_NUMBER): _response_payloads(),
            tag(pb.StreamedReply.ERROR_FIELD_NUMBER): ERROR,
        }
    },
    _first_reply,
    TemplateCache(),
    STREAM_ID,
)
"""One reply of a stream, as an AttendStreamResponse of its own. Such messages, one after the other,
are one AttendStreamResponse with all replies."""
ATTEND_ROWS = _ResponseFormat(
    pb.AttendRowsResponse,
    {
        tag(pb.AttendRowsResponse.FIRST_ROW_FIELD_NUMBER, VARINT): FIRST_ROW,
        tag(pb.AttendRowsResponse.BLOCK_FIELD_NUMBER): _response_payloads(),
    },
    lambda message: message.block,
    TemplateCache(),
    FIRST_ROW,
)
