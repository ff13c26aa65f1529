"""Prepare the first request of each template: parse its skeleton, find its model, plan it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from polyhead.v1 import attention_pb2 as pb
from polyhead_server.codec.message_format import parse, read_frame
from polyhead_server.codec.request import check_payload_sizes
from polyhead_server.codec.request_fields import read_call
from polyhead_server.errors import prefix_field_path
from polyhead_server.planning.plan import plan_rows
from polyhead_server.planning.prepared_call import prepare_attention

if TYPE_CHECKING:
    from polyhead.wire.protobuf import Extracted
    from polyhead_server.call import AttentionCall
    from polyhead_server.engine.model import Model
    from polyhead_server.planning.plan import RowsPlan
    from polyhead_server.planning.prepared_call import PreparedAttention
    from polyhead_server.repository.repository import Repository
    from polyhead_server.settings import ServerSettings

    LogFields = dict[str, object]

__all__ = ["CallPreparer"]


class CallPreparer:
    """Prepares calls of the repository's attention blocks.

    Each method reads a message without its payloads. It raises InvalidRequestError if the message
    contradicts itself or does not fit its model, ModelNotFoundError, ModelUnavailableError and
    LimitExceededError.
    """

    def __init__(self, repository: Repository, settings: ServerSettings) -> None:
        self._repository = repository
        self._settings = settings

    def attend(self, _: bytes, extracted: Extracted, log_fields: LogFields) -> PreparedAttention:
        """Prepare an AttendRequest."""
        return self._attention(parse(pb.AttendRequest, extracted.skeleton), extracted, log_fields)

    def streamed(self, _: bytes, extracted: Extracted, log_fields: LogFields) -> PreparedAttention:
        """Prepare the only request of an AttendStreamRequest."""
        skeleton = extracted.skeleton
        call = skeleton[slice(*read_frame(skeleton, 0, len(skeleton)).call)]
        return self._attention(parse(pb.AttendRequest, call), extracted, log_fields)

    def attend_rows(
        self, _: bytes, extracted: Extracted, log_fields: LogFields
    ) -> tuple[Model, RowsPlan]:
        """Prepare an AttendRowsRequest."""
        request = parse(pb.AttendRowsRequest, extracted.skeleton)
        with prefix_field_path("call"):
            call = self._read(request.call, extracted, log_fields)
            model = self._repository.get(call.model, call.model_version, call.layer)
        return model, plan_rows(call, request.rows_per_block, model.config, self._settings)

    def _attention(
        self, request: pb.AttendRequest, extracted: Extracted, log_fields: LogFields
    ) -> PreparedAttention:
        call = self._read(request, extracted, log_fields)
        model = self._repository.get(call.model, call.model_version, call.layer)
        return prepare_attention(call, model, self._settings)

    def _read(
        self, request: pb.AttendRequest, extracted: Extracted, log_fields: LogFields
    ) -> AttentionCall:
        call = read_call(request)
        log_fields["model"] = call.model
        check_payload_sizes(call, extracted.spans)
        return call
