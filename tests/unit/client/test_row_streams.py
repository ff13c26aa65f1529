"""attend_rows releases gRPC's call early, because deleting it at Python's exit may deadlock."""

from __future__ import annotations

import subprocess
import sys
import weakref
from contextlib import nullcontext

import numpy as np
import pytest

import polyhead
from polyhead._calls.request import prepare_call
from polyhead._stream.row_streams import RowStream
from polyhead.v1 import attention_pb2 as pb
from polyhead.wire.tensors import to_tensor

QUERY = np.ones((1, 2, 3), np.float32)


class Call:
    """A call that returns two rows in one block and ends."""

    def __init__(self):
        block = pb.AttendResponse(output=to_tensor(QUERY))
        self._blocks = iter([pb.AttendRowsResponse(block=block).SerializeToString()])
        self.is_cancelled = False

    def __iter__(self):
        return self

    def __next__(self):
        return next(self._blocks)

    def cancel(self):
        self.is_cancelled = True


class BadCall(Call):
    def __next__(self):
        return b"?"


def stream_of(call):
    return RowStream(call, prepare_call(QUERY, model="m").expected, nullcontext)


def test_closing_cancels_and_releases_the_call():
    call = Call()
    stream = stream_of(call)
    next(stream)
    stream.close()
    assert call.is_cancelled
    reference = weakref.ref(call)
    del call
    assert reference() is None
    assert list(stream) == []


def test_the_end_and_errors_release_the_call():
    call, bad_call = Call(), BadCall()
    references = weakref.ref(call), weakref.ref(bad_call)
    stream, bad_stream = stream_of(call), stream_of(bad_call)
    del call, bad_call
    assert len(list(stream)) == 1
    with pytest.raises(polyhead.ServerError, match="could not be read"):
        next(bad_stream)
    assert [reference() for reference in references] == [None, None]


LEFT_OPEN = """
import sys
from contextlib import nullcontext
from polyhead._stream.row_streams import RowStream

class Call:
    def __del__(self):
        print("finalizing:", sys.is_finalizing())

stream = RowStream(Call(), None, nullcontext)
"""


def test_an_open_stream_releases_the_call_before_python_exits():
    done = subprocess.run(
        [sys.executable, "-c", LEFT_OPEN], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout == "finalizing: False\n"
