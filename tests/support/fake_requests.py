"""Requests made of arrays, not of bytes, the jobs that run them, and a repository of one model."""

from __future__ import annotations

from polyhead.v1 import attention_pb2 as pb
from polyhead.wire.tensors import TensorLayout, parse_dtype
from polyhead_server.call import AttentionCall
from polyhead_server.codec.message_format import STREAMED
from polyhead_server.deadline import Deadline
from polyhead_server.limits import InlineLimits
from polyhead_server.planning.plan import plan_call, plan_rows
from polyhead_server.planning.plan_cache import PlanCache
from polyhead_server.planning.prepared_call import PreparedAttention
from polyhead_server.scheduling.job import RequestJob
from polyhead_server.scheduling.rows_job import RowsJob
from polyhead_server.services.attention.prepare import CallPreparer
from polyhead_server.settings import ServerSettings

NO_DEADLINE = Deadline(None)
LIMITS = ServerSettings()
NEVER_INLINE = InlineLimits(max_multiply_adds=0)
"""Limits with which every request runs in a worker thread."""
IN_THREADS = ServerSettings(inline_limits=NEVER_INLINE)


def call_of(numbers, **fields):
    """Make the call of these arrays, which are given by field."""
    given = {"model": "m", "model_version": 0, "output_dtype": pb.DATA_TYPE_FLOAT}
    given |= {"kv_lengths": (), "weights": None}
    for name in ("query", "key", "value", "attn_mask", "positions", "key_positions"):
        array = numbers.get(name)
        given[name] = None
        if array is not None:
            given[name] = TensorLayout(parse_dtype(array.dtype), array.shape, array.nbytes)
    return AttentionCall(**(given | fields))


class FakeRepository:
    """A repository of one model, which has every name."""

    is_loaded = True
    version = 0

    def __init__(self, model):
        self._model = model

    def get(self, name, version, layer=None):
        return self._model


def stream_plans(model, settings=LIMITS):
    """Make the plans of an AttendStream's requests, all of them of one model."""
    repository = FakeRepository(model)
    return PlanCache(STREAMED, CallPreparer(repository, settings).streamed, repository)


class FakeRequest:
    """A request whose response is what its run returned: outputs and timing."""

    count = 1
    times = None

    def __init__(self, numbers):
        self._numbers = numbers

    def arrays(self):
        return self._numbers

    def respond(self, _, *result):
        return result


def attend_job(model, numbers, deadline=NO_DEADLINE, *, request=None, is_shared=False, **fields):
    """Make the job of a request. It runs alone, and in a worker thread.

    ``is_shared``: whether it may run together with others of its batch key.
    """
    plan = plan_call(call_of(numbers, **fields), model.config, IN_THREADS)
    assert plan.batch_key is not None or not is_shared
    batch_key = (model, plan.batch_key) if is_shared else None
    prepared = PreparedAttention(model, plan, batch_key)
    return RequestJob(prepared, request or FakeRequest(numbers), deadline)


def shared_job(model, numbers, deadline=NO_DEADLINE, **fields):
    """Make the job of a request that runs together with others of its batch key."""
    return attend_job(model, numbers, deadline, is_shared=True, **fields)


def rows_job(model, numbers, rows_per_block, deadline=NO_DEADLINE, **fields):
    """Make the job of a request that is answered in blocks of rows, in worker threads."""
    plan = plan_rows(call_of(numbers, **fields), rows_per_block, model.config, IN_THREADS)
    return RowsJob(model, plan, FakeRequest(numbers), deadline)
