"""Open and closed loops in virtual time, in which every latency is known exactly."""

from __future__ import annotations

import asyncio
import itertools
import math
import selectors
import time

import numpy as np
import pytest

from polyhead.bench.loops import Load
from polyhead.bench.payloads import Payload
from polyhead.bench.plan import Plan
from polyhead.bench.samples import Recorder
from polyhead.bench.worker import run_plan
from polyhead.errors import ResourceExhaustedError
from polyhead.results import AttentionResult, Execution

EXECUTION = Execution(
    model="m", model_version=1, provider="", kernel="", queue_ms=1, compute_ms=2, batch_size=3
)
RESULT = AttentionResult(
    output=None,
    attn_weights=None,
    q_seq_len=1,
    kv_seq_len=1,
    request_id="",
    execution=EXECUTION,
)


class VirtualTime(asyncio.SelectorEventLoop):
    """An event loop whose clock jumps to the next event."""

    def __init__(self):
        self.now = 100.0
        loop = self

        class Selector(selectors.SelectSelector):
            def select(self, timeout=None):
                assert timeout is not None, "deadlock: no task has a timeout"
                loop.now += max(timeout, 0)
                return super().select(0)

        super().__init__(Selector())

    def time(self):
        return self.now


def run_virtually(plan, answer_after):
    """Carry out a plan whose requests take ``answer_after(now)`` seconds, or raise."""

    async def body():
        loop = asyncio.get_running_loop()
        in_flight = 0

        async def attend(**arguments):
            nonlocal in_flight
            in_flight += 1
            in_flight_counts.append(in_flight)
            try:
                await asyncio.sleep(answer_after(loop.time() - start))
            finally:
                in_flight -= 1
            return RESULT

        start = loop.time() + 1
        origin = start + plan.warmup_s
        end = math.inf if plan.duration_s is None else origin + plan.duration_s
        recorder = Recorder(origin, end=end)
        await Load(attend, itertools.repeat(Payload(7, {})), plan, recorder, start=start).run()
        return recorder.to_samples(ended=loop.time(), cpu_s=0.5, is_stopped=False)

    in_flight_counts = []
    with asyncio.Runner(loop_factory=VirtualTime) as runner:
        samples = runner.run(body())
    return samples, max(in_flight_counts)


def stalls(now):
    """Answer at once, except in the first 0.4 s of every 2 s."""
    return max(0.4 - now % 2, 0.0)


OPEN = Plan(rate=200.0, arrivals="constant", warmup_s=0, duration_s=4)


def test_open_loop_counts_from_when_a_request_was_due():
    samples, max_in_flight = run_virtually(OPEN, stalls)
    starts, latencies = samples.answers[:, :2].T
    assert len(starts) == 800
    np.testing.assert_allclose(np.sort(starts), np.arange(800) / 200, atol=1e-6)
    np.testing.assert_allclose(latencies, [stalls(start) for start in starts], atol=1e-6)
    assert np.quantile(latencies, 0.9) == pytest.approx(0.2, abs=0.006)
    assert np.quantile(latencies, 0.99) == pytest.approx(0.38, abs=0.006)
    assert max_in_flight == 80  # due in 0.4 s, and sent before the first was answered


def test_waiting_for_max_in_flight_counts_as_latency():
    """With at most 10 in flight the latencies are the same, because they count from due times."""
    plan = Plan(**(fields_of(OPEN) | {"max_in_flight": 10}))
    samples, max_in_flight = run_virtually(plan, stalls)
    assert max_in_flight == 10
    assert samples.held_back == 2 * 70
    starts, latencies = samples.answers[:, :2].T
    np.testing.assert_allclose(latencies, [stalls(start) for start in starts], atol=1e-6)
    assert samples.lags.max() < 1e-6  # lateness because of the limit is not the generator's lag


def fields_of(plan):
    return {name: getattr(plan, name) for name in Plan.__slots__}


def test_closed_loop_does_not_see_the_stall():
    """Waiting callers send nothing during the stall: the reason for open loops."""
    plan = Plan(concurrency=4, warmup_s=0, duration_s=4)
    samples, max_in_flight = run_virtually(plan, lambda now: max(stalls(now), 0.002))
    assert max_in_flight == 4
    latencies = samples.answers[:, 1]
    assert (latencies > 0.1).sum() == 2 * 4
    assert np.quantile(latencies, 0.99) == pytest.approx(0.002, abs=1e-6)


def test_an_overloaded_run_ends():
    """Ten requests per second, one in flight for a second each: most fail after waiting."""
    plan = Plan(
        rate=10.0,
        arrivals="constant",
        max_in_flight=1,
        warmup_s=0,
        duration_s=3,
        max_wait_s=2.0,
    )
    samples, _ = run_virtually(plan, lambda now: 1.0)
    assert samples.sent == 30 == len(samples.answers) + len(samples.failures)
    (error_type,) = samples.error_types
    assert error_type.code == "NOT_SENT"
    assert samples.failures[:, 1].min() > 2.0
    # sent within 2 s of being due, and answered 1 s later
    assert samples.answers[:, 1].max() < 3.0 + 1e-6
    assert samples.elapsed_s < 3 + 2 + 1


def test_warmup_is_not_measured():
    plan = Plan(rate=10.0, arrivals="constant", warmup_s=2, duration_s=3)
    samples, _ = run_virtually(plan, lambda now: 5.0 if now < 1.95 else 0.01)
    assert samples.sent == len(samples.answers) == len(samples.lags) == 30
    assert samples.answers[:, 0].min() == pytest.approx(0, abs=1e-6)
    assert samples.answers[:, 1].max() == pytest.approx(0.01)


def test_throughput_counts_answers_within_the_measurement():
    """16 callers out of step with 3 s per request get 16 / 3 answers per second."""
    number = itertools.count(1)

    def take(now):  # the first answers are spread over 3 s, all later ones take 3 s
        return min(3.0, 3 * next(number) / 16)

    plan = Plan(concurrency=16, warmup_s=4, duration_s=10)
    samples, _ = run_virtually(plan, take)
    ends = samples.answers[:, :2].sum(axis=1)
    assert ends.max() > 12  # requests answered after the end have a latency
    assert samples.arrived / 10 == pytest.approx(16 / 3, abs=0.1)
    assert samples.arrived_tokens == 7 * samples.arrived
    assert len(samples.answers) == samples.sent == pytest.approx(53, abs=1)
    assert samples.answers[:, 0].min() >= 0


class NoPipe:
    """A pipe that receives nothing and discards what is sent."""

    def send(self, message):
        pass

    def poll(self):
        return False


def test_cpu_time_is_that_of_the_measurement():
    """The 0.2 s of CPU time after the measurement of 0.1 s do not count."""

    async def attend(**arguments):
        await asyncio.sleep(0.15)
        until = time.process_time() + 0.2
        while time.process_time() < until:
            pass
        return RESULT

    async def body():
        plan = Plan(concurrency=1, warmup_s=0, duration_s=0.1)
        start = asyncio.get_running_loop().time()
        return await run_plan(NoPipe(), attend, itertools.repeat(Payload(7, {})), plan, start)

    samples = asyncio.run(body())
    assert len(samples.answers) == 1
    assert samples.arrived == 0
    assert samples.elapsed_s == pytest.approx(0.1)
    assert samples.cpu_s[0] < 0.2


@pytest.mark.parametrize(
    "plan",
    [
        Plan(concurrency=3, warmup_s=0.05, duration_s=None, requests=100),
        Plan(rate=50.0, warmup_s=0.05, duration_s=None, requests=100),
    ],
)
def test_the_requested_number_of_requests_is_measured(plan):
    samples, _ = run_virtually(plan, lambda now: 0.01)
    assert samples.sent == len(samples.answers) == 100


def test_a_process_without_a_share_sends_nothing():
    samples, _ = run_virtually(Plan(concurrency=1, duration_s=None, requests=0), lambda now: 0.1)
    assert samples.sent == len(samples.answers) == 0


def test_failures_do_not_count_as_fast_answers():
    counter = itertools.count()

    def every_third(now):
        if next(counter) % 3 == 0:
            raise ResourceExhaustedError("full", code="RESOURCE_EXHAUSTED", reason="QUEUE_FULL")
        return 0.02

    samples, _ = run_virtually(OPEN, every_third)
    assert len(samples.failures) == 267
    assert len(samples.answers) == 533
    assert samples.answers[:, 1].min() == pytest.approx(0.02)
    assert samples.failures[:, 1].max() == pytest.approx(0, abs=1e-6)


def test_bugs_are_raised_and_not_counted():
    def broken(now):
        raise TypeError("a bug")

    with pytest.raises(ExceptionGroup) as caught:
        run_virtually(OPEN, broken)
    assert caught.group_contains(TypeError, match="a bug")


def test_answers_contain_the_servers_figures():
    samples, _ = run_virtually(Plan(concurrency=1, warmup_s=0, duration_s=1), lambda now: 0.1)
    assert samples.answers[:, 2:].tolist() == [[7, 1, 2, 3]] * len(samples.answers)
