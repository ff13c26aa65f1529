"""Requests without bytes, as jobs see them: made of arrays, and answered with values."""

from __future__ import annotations

from polyhead.v1 import attention_pb2 as pb
from polyhead.wire.tensors import TensorLayout, dtype_of
from polyhead_server.call import AttentionCall
from polyhead_server.deadline import Deadline
from polyhead_server.planning.plan import plan_call, plan_rows
from polyhead_server.scheduling.job import AttendJob
from polyhead_server.scheduling.rows_job import RowsJob
from polyhead_server.settings import ServerSettings

NO_DEADLINE = Deadline(None)
LIMITS = ServerSettings()


def call_of(numbers, **fields):
    """Make the call that asks for these arrays, given by field."""
    given = {"model": "m", "model_version": 0, "output_dtype": pb.DATA_TYPE_FLOAT}
    given |= {"kv_lengths": (), "weights": None}
    for name in ("query", "key", "value", "attn_mask", "positions", "key_positions"):
        array = numbers.get(name)
        given[name] = (
            None if array is None else TensorLayout(dtype_of(array), array.shape, array.nbytes)
        )
    return AttentionCall(**(given | fields))


class Asked:
    """A request that is answered with what its run gave, and how long that took."""

    def __init__(self, numbers):
        self._numbers = numbers

    def arrays(self):
        return self._numbers

    def reply(self, _, *result):
        return result


def attend_job(model, numbers, deadline=NO_DEADLINE, *, batch_key=None, request=None, **fields):
    """Make the job of a request; without a batch key it runs alone."""
    plan = plan_call(call_of(numbers, **fields), model.config, LIMITS)
    return AttendJob(model, plan, batch_key, request or Asked(numbers), deadline)


def shared_job(model, numbers, deadline=NO_DEADLINE, **fields):
    """Make the job of a request that runs together with others of its batch key."""
    job = attend_job(model, numbers, deadline, **fields)
    assert job.plan.batch_key is not None
    job.batch_key = model, job.plan.batch_key
    return job


def rows_job(model, numbers, rows_per_block, deadline=NO_DEADLINE, **fields):
    """Make the job of a request that is answered in blocks of rows."""
    plan = plan_rows(call_of(numbers, **fields), rows_per_block, model.config, LIMITS)
    return RowsJob(model, plan, Asked(numbers), deadline)
