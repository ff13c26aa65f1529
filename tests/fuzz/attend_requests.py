"""AttendRequests and AttendRowsRequests, read and planned by the server.

The first byte says which of the two; what is read must be what protobuf reads.
"""

from __future__ import annotations

from types import SimpleNamespace

from decoding import Decoder
from tests.fuzz import readings
from tests.fuzz.served import SETTINGS, repository

from polyhead.v1 import attention_pb2 as pb
from polyhead_server.codec.message_format import ATTEND, ATTEND_ROWS
from polyhead_server.codec.request import AttendRequest, AttendRowsRequest
from polyhead_server.errors import RequestError
from polyhead_server.planning.plan_cache import PlanCache
from polyhead_server.services.attention.prepare import CallPreparer

__all__ = ["check", "seeds"]


def check(data):
    is_rows, data = data[:1] > b"\x7f", data[1:]
    if is_rows:
        _check_rows(data)
    else:
        readings.assert_equal(readings.outcome(readings.read, data), readings.expected_of(data))
    _plan(data, is_rows=is_rows)


def seeds():
    requests = [readings.full_request(), readings.plain_request(request_id="one")]
    rows = [pb.AttendRowsRequest(call=request, rows_per_block=1) for request in requests]
    return [
        *(b"\x00" + request.SerializeToString() for request in requests),
        *(b"\xff" + request.SerializeToString() for request in rows),
    ]


def _check_rows(data):
    message = readings.parsed(pb.AttendRowsRequest, data)

    def read(data):
        request, rows_per_block = Decoder().attend_rows(data)
        assert rows_per_block == message.rows_per_block
        return readings.reading_of(request)

    expected = readings.expected_of(b"\xff")
    if message is not None:
        expected = readings.outcome(readings.read_by_protobuf, message.call)
    readings.assert_equal(readings.outcome(read, data), expected)


def _plan(data, *, is_rows):
    """Plan a request twice: when its template is new, and when it is known."""
    models = repository()
    preparer = CallPreparer(models, SETTINGS)
    prepare = preparer.attend_rows if is_rows else preparer.attend
    plans = PlanCache(
        ATTEND_ROWS if is_rows else ATTEND, prepare, SimpleNamespace(version=models.version)
    )
    for _ in range(2):
        try:
            match = plans.match(data, log_fields={})
            plan = match.value[1].call_plan if is_rows else match.value.plan
            request = (AttendRowsRequest if is_rows else AttendRequest)(match, plan.call)
            plan.inputs(request.arrays())
        except RequestError:
            return
