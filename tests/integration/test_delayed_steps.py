"""A call is held at each of its steps; meanwhile its caller goes, or its time is over.

The caller gets the right status, all that the server accounts for is back, and the next call is
answered as before.
"""

from __future__ import annotations

import shutil
from itertools import count

import grpc
import numpy as np
import pytest
from delayed_steps import STEPS, Accounts, accounted_server, held_at
from golden import GOLDEN
from raw_calls import SERVICE, open_channel
from streams import Stream

from polyhead.v1 import attention_pb2 as pb
from polyhead.v1 import forward_pb2 as fpb
from polyhead.wire.tensors import to_array, to_tensor
from polyhead_models import builtin
from polyhead_models.checkpoint.checkpoint import Checkpoint
from polyhead_models.export.whole import export_whole_model
from polyhead_server.inference import grpc_inference_pb2 as infer_pb

CASES = [(method, step) for method, steps in STEPS.items() for step in steps]
CALLS = [case for case in CASES if case[0] != "AttendStream"]
SHORT_S = 0.1
_lengths = count(1)
_forward_outputs = {}
"""What Forward answered first, by channel."""


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    folder = tmp_path_factory.mktemp("delayed")
    shutil.copytree(builtin.repository() / "river-bank", folder / "river-bank")
    export_whole_model(Checkpoint.open(GOLDEN / "bert"), "bert", folder)
    with (
        accounted_server(folder, max_concurrent_runs=1) as (server, app),
        open_channel(server) as channel,
    ):
        assert_answers(channel, "Forward")  # remembers the answer
        yield channel, Accounts(app, channel)


@pytest.fixture
def channel(served):
    return served[0]


@pytest.fixture
def accounts(served):
    served[1].wait_until_nothing_is_held()
    return served[1]


def queries():
    """Make a query of a shape that no request had before, so that its template is new."""
    length = next(_lengths)
    return np.arange(length * 6, dtype=np.float32).reshape(1, length, 6) / 1000


class Call:
    """A call of any method, to begin, cancel and compare."""

    def __init__(self, channel, method, timeout=30.0):
        self.method, self.query = method, queries()
        attend = pb.AttendRequest(model="river-bank", query=to_tensor(self.query))
        if method == "AttendStream":
            self.stream = Stream(channel)
            self.stream.send({7: attend}, timeout_us=int(timeout * 1e6))
            self.call = self.stream.call
        elif method == "AttendRows":
            request = pb.AttendRowsRequest(call=attend, rows_per_block=1)
            send = channel.unary_stream(SERVICE + method)
            self.call = send(request.SerializeToString(), timeout=timeout)
        elif method == "ModelInfer":
            send = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
            self.call = send.future(self._infer_request(), timeout=timeout)
        else:
            if method == "Forward":
                ids = np.arange(8)[None]
                attend = fpb.ForwardRequest(model="bert", token_ids=to_tensor(ids))
            send = channel.unary_unary(SERVICE + method)
            self.call = send.future(attend.SerializeToString(), timeout=timeout)

    def _infer_request(self):
        request = infer_pb.ModelInferRequest(model_name="river-bank")
        request.inputs.add(name="query", datatype="FP32", shape=self.query.shape)
        request.raw_input_contents.append(self.query.tobytes())
        return request.SerializeToString()

    def status(self):
        """Wait for the end; return the name of the status."""
        if self.method == "AttendStream" and not self.call.cancelled():
            [reply] = self.stream.replies(1).values()
            code = {each.value[0]: each.name for each in grpc.StatusCode}[reply.error.code]
            self.stream.rest()
            return code
        return self.call.code().name

    def output(self):
        """Wait for the answer; return the output."""
        if self.method == "AttendStream":
            [reply] = self.stream.rest().values()
            return to_array(reply.response.output)
        if self.method == "AttendRows":
            blocks = [pb.AttendRowsResponse.FromString(data).block for data in self.call]
            return np.concatenate([to_array(block.output) for block in blocks], axis=1)
        data = self.call.result()
        if self.method == "ModelInfer":
            response = infer_pb.ModelInferResponse.FromString(data)
            shape = response.outputs[0].shape
            return np.frombuffer(response.raw_output_contents[0], np.float32).reshape(shape)
        kind = fpb.ForwardResponse if self.method == "Forward" else pb.AttendResponse
        return to_array(kind.FromString(data).output)


def assert_answers(channel, method):
    """Hold that a call is answered rightly: Forward as before, each other method as Attend does."""
    call = Call(channel, method)
    output = call.output()
    if method == "Forward":
        expected = _forward_outputs.setdefault(channel, output)
        np.testing.assert_allclose(output, expected, atol=1e-6)
        return
    request = pb.AttendRequest(model="river-bank", query=to_tensor(call.query))
    answer = channel.unary_unary(SERVICE + "Attend")(request.SerializeToString(), timeout=30)
    expected = to_array(pb.AttendResponse.FromString(answer).output)
    np.testing.assert_allclose(output, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("method", "step"), CASES, ids=map("-".join, CASES))
def test_the_caller_goes_while_a_call_is_at_a_step(channel, accounts, monkeypatch, method, step):
    where = STEPS[method][step]
    with held_at(where, monkeypatch) as gate:
        call = Call(channel, method)
        gate.wait_for_arrival()
        call.call.cancel()
        assert call.status() == "CANCELLED"
        if where.place != "loop":  # the call ends, though its step goes on
            accounts.wait_for(lambda: "open calls" not in accounts.held())
            assert accounts.held().keys() <= {"slots"}
    accounts.wait_until_nothing_is_held()
    assert_answers(channel, method)


@pytest.mark.parametrize(("method", "step"), CALLS, ids=map("-".join, CALLS))
def test_the_time_is_over_while_a_call_is_at_a_step(channel, accounts, monkeypatch, method, step):
    has_arrived = False
    while not has_arrived:  # a busy machine may not come to the step in so short a time
        with held_at(STEPS[method][step], monkeypatch) as gate:
            call = Call(channel, method, SHORT_S)
            assert call.status() == "DEADLINE_EXCEEDED"
            has_arrived = gate.has_arrived
        accounts.wait_until_nothing_is_held()
    assert_answers(channel, method)


@pytest.mark.parametrize("step", STEPS["AttendStream"])
def test_the_time_of_a_streamed_request_is_over_at_a_step(channel, accounts, monkeypatch, step):
    where = STEPS["AttendStream"][step]
    with held_at(where, monkeypatch) as gate:
        call = Call(channel, "AttendStream", 2 * SHORT_S)
        gate.wait_for_arrival()
        if where.place == "thread" or step == "admit":
            assert call.status() == "DEADLINE_EXCEEDED"
        else:
            accounts.let_pass(2 * SHORT_S)
    if where.place != "thread" and step != "admit":
        # the server counts the time from when it has read the request, until it has run
        assert call.status() in {"OK", "DEADLINE_EXCEEDED"}
    accounts.wait_until_nothing_is_held()
    assert_answers(channel, "AttendStream")


@pytest.mark.parametrize("step", STEPS["AttendStream"])
def test_a_streamed_request_is_cancelled_at_a_step(channel, accounts, monkeypatch, step):
    with held_at(STEPS["AttendStream"][step], monkeypatch) as gate:
        call = Call(channel, "AttendStream")
        gate.wait_for_arrival()
        call.stream.send(cancelled=[7])
    assert call.stream.rest().keys() <= {7}
    accounts.wait_until_nothing_is_held()
    assert_answers(channel, "AttendStream")


@pytest.mark.parametrize("method", STEPS)
def test_the_caller_goes_while_a_call_waits_in_the_queue(channel, accounts, monkeypatch, method):
    with held_at(STEPS["Attend"]["run"], monkeypatch) as gate:
        first = Call(channel, "Attend")
        gate.wait_for_arrival()
        call = Call(channel, method)
        accounts.wait_for(lambda: "places in the queue" in accounts.held())
        call.call.cancel()
        assert call.status() == "CANCELLED"
        accounts.wait_for(lambda: "places in the queue" not in accounts.held())
        accounts.wait_for(lambda: accounts.held()["open calls"] == 1)
        gate.open()
        assert first.output().shape == first.query.shape
    accounts.wait_until_nothing_is_held()
    assert_answers(channel, method)
