"""Requests read as the service reads them, without a model that they would have to fit."""

from __future__ import annotations

from types import SimpleNamespace

from polyhead.v1 import attention_pb2 as pb
from polyhead_server.codec.message_format import ATTEND, ATTEND_ROWS, STREAM_ID, STREAMED, parse
from polyhead_server.codec.request import AttendRequest, AttendRowsRequest, StreamedRequests
from polyhead_server.errors import prefix_field_path
from polyhead_server.planning.plan_cache import PlanCache
from polyhead_server.services.attention.prepare import CallPreparer


class _CallsOnly(CallPreparer):
    """Prepares nothing but calls."""

    def __init__(self):
        super().__init__(None, None)

    def _attention(self, request, extracted, log_fields):
        return self._read(request, extracted, log_fields)

    def attend_rows(self, _, extracted, log_fields):
        request = parse(pb.AttendRowsRequest, extracted.skeleton)
        with prefix_field_path("call"):
            return self._read(request.call, extracted, log_fields), request.rows_per_block


class Decoder:
    """Reads requests; it knows the templates of those that it has read."""

    def __init__(self):
        prepare, repository = _CallsOnly(), SimpleNamespace(version=0)
        self._attend = PlanCache(ATTEND, prepare.attend, repository)
        self._rows = PlanCache(ATTEND_ROWS, prepare.attend_rows, repository)
        self._streamed = PlanCache(STREAMED, prepare.streamed, repository)

    def attend(self, data):
        match = self._attend.match(data, log_fields={})
        return AttendRequest(match, match.value)

    def attend_rows(self, data):
        """Return the request, and how many rows a block shall have."""
        match = self._rows.match(data, log_fields={})
        call, rows_per_block = match.value
        return AttendRowsRequest(match, call), rows_per_block

    def match_streamed(self, data, start=0, end=None):
        return self._streamed.match(data, start, end, log_fields={})

    def streamed(self, data, start=0, end=None):
        match = self.match_streamed(data, start, end)
        return StreamedRequests(match, match.value, [match.payload(STREAM_ID) or b"\0"])
