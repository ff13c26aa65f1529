"""transport="stream": many calls share a stream, with the same results as unary calls."""

from __future__ import annotations

import asyncio
import gc
import os
import subprocess
import sys
import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import grpc
import numpy as np
import pytest
from fake_server import FakeServer, start

import polyhead

QUERY = np.arange(24, dtype=np.float32).reshape(2, 3, 4)


@pytest.fixture
def streaming(fake):
    with polyhead.Client(fake.target, transport="stream", timeout=30) as client:
        yield client


def use(fake, body, **options):
    """Run ``body(client)`` with an AsyncClient in an event loop of its own; no task may remain."""

    async def run():
        async with polyhead.AsyncClient(
            fake.target, transport="stream", **{"timeout": 30, **options}
        ) as client:
            result = await body(client)
        left = {task.get_coro().__qualname__ for task in asyncio.all_tasks()}
        assert not {name for name in left if name.startswith(("AsyncStream", "_feed"))}
        return result

    return asyncio.run(run())


def both(fake, **arguments):
    """Call attend of both clients; yield the result or the error of each."""

    def call(client):
        return client.attend(QUERY, **arguments)

    with polyhead.Client(fake.target, transport="stream", timeout=30) as client:
        try:
            yield call(client)
        except polyhead.PolyheadError as error:
            yield error
    try:
        yield use(fake, call)
    except polyhead.PolyheadError as error:
        yield error


def number(value):
    return np.full((1, 2, 3), value, np.float32)


def test_a_stream_returns_the_results_of_unary_calls(fake, connected):
    wanted = polyhead.Weights(heads=(1,), top_k=2)
    arguments = {"model": "echo", "need_weights": wanted, "request_id": "me"}
    expected = connected.attend(QUERY, **arguments)
    for result in both(fake, **arguments):
        np.testing.assert_array_equal(result.output, expected.output)
        np.testing.assert_array_equal(result.attn_weights, expected.attn_weights)
        np.testing.assert_array_equal(result.top_keys, expected.top_keys)
        assert (result.request_id, result.selection) == ("me", expected.selection)
    assert fake.streams == 2


def test_metadata_travels_with_streams(fake):
    use(fake, lambda client: client.attend(QUERY, model="echo"), metadata={"x-tenant": "t"})
    assert fake.metadata["x-tenant"] == "t"


def test_tasks_share_messages_and_get_their_own_replies(fake):
    async def body(client):
        return await asyncio.gather(
            *(client.attend(number(n), model="echo", request_id=str(n)) for n in range(500))
        )

    for n, result in enumerate(use(fake, body)):
        assert (result.output == n).all()
        assert result.request_id == str(n)
    assert fake.streams == 1
    assert sum(fake.messages) == 500
    assert len(fake.messages) < 10


def test_threads_share_a_stream_and_get_their_own_replies(fake, streaming):
    def call(n):
        return streaming.attend(number(n), model="echo", request_id=str(n))

    with ThreadPoolExecutor(16) as threads:
        for n, result in enumerate(threads.map(call, range(500))):
            assert (result.output == n).all()
            assert result.request_id == str(n)
    assert fake.streams == 1


def test_messages_are_limited_to_about_a_mebibyte(fake):
    query = np.ones((1, 100, 1000), np.float32)  # 400 kB

    async def body(client):
        await asyncio.gather(*(client.attend(query, model="echo") for _ in range(7)))
        await client.attend(np.ones((1, 400, 1000), np.float32), model="echo")  # alone

    use(fake, body)
    assert fake.messages == [2, 2, 2, 1, 1]


def test_failures_raise_the_documented_errors(fake):
    for error in both(fake, model="fails"):
        assert type(error) is polyhead.InvalidArgumentError
        assert str(error) == "query.shape: got another"
        assert (error.code, error.reason) == ("INVALID_ARGUMENT", "SHAPE_MISMATCH")
        assert error.figures == {"got": "3"}
    for error in both(fake, model="no-array"):
        assert type(error) is polyhead.ServerError
        assert "holds no array" in str(error)
    for error in both(fake, model="nothing"):
        assert type(error) is polyhead.ServerError
        assert "neither response nor error" in str(error)


def test_a_failure_does_not_affect_other_requests(fake):
    async def body(client):
        models = ["echo", "fails"] * 20
        calls = (client.attend(number(n), model=model) for n, model in enumerate(models))
        return await asyncio.gather(*calls, return_exceptions=True)

    for n, outcome in enumerate(use(fake, body)):
        if n % 2:
            assert isinstance(outcome, polyhead.InvalidArgumentError)
        else:
            assert (outcome.output == n).all()
    assert fake.streams == 1


def test_a_deadline_passes_even_if_the_server_is_silent(fake):
    started = time.monotonic()
    for error in both(fake, model="silent", timeout=0.2):
        assert type(error) is polyhead.DeadlineExceededError
        assert "within 0.2 s" in str(error)
        assert error.code == "DEADLINE_EXCEEDED"
    assert 0.4 <= time.monotonic() - started < 10
    assert fake.timeouts_us == [200_000, 200_000]


def wait_until(condition):
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_deadlines_and_cancellations_reach_the_server(fake, streaming):
    async def body(client):
        with pytest.raises(polyhead.DeadlineExceededError):
            await client.attend(QUERY, model="silent", timeout=0.1)
        task = asyncio.create_task(client.attend(QUERY, model="silent"))
        await asyncio.to_thread(wait_until, lambda: fake.calls == 2)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.to_thread(wait_until, lambda: fake.cancelled_ids == [1, 2])

    use(fake, body)
    with pytest.raises(polyhead.DeadlineExceededError):
        streaming.attend(QUERY, model="silent", timeout=0.1)
    wait_until(lambda: fake.cancelled_ids == [1, 2, 1])


def test_requests_cancelled_before_they_are_written_are_not_sent(fake):
    async def body(client):
        task = asyncio.create_task(client.attend(QUERY, model="echo"))
        await asyncio.sleep(0)  # it has been submitted, and the stream is not open yet
        task.cancel()
        await asyncio.wait([task])
        await client.attend(QUERY, model="echo")

    use(fake, body)
    assert fake.calls == 1
    assert fake.cancelled_ids == []


def test_calls_without_a_timeout_use_the_clients(fake):
    with pytest.raises(polyhead.DeadlineExceededError, match=r"within 0\.2 s"):
        use(fake, lambda client: client.attend(QUERY, model="silent"), timeout=0.2)


@pytest.mark.parametrize("model", ["breaks-twice", "renews-twice"])
def test_requests_that_a_stream_leaves_unanswered_are_sent_again(fake, model):
    for result in both(fake, model=model):
        np.testing.assert_array_equal(result.output, QUERY)
        assert fake.streams == 3
        fake.streams = 0
    assert all(0 < timeout_us <= 30e6 for timeout_us in fake.timeouts_us)


@pytest.mark.parametrize(
    ("model", "message"),
    [("breaks", "no server answers at .*draining"), ("renews", "ended 4 streams")],
)
def test_an_unanswered_request_is_sent_four_times_at_most(fake, model, message):
    for error in both(fake, model=model):
        with pytest.raises(polyhead.ServerUnavailableError, match=message) as caught:
            raise error
        assert caught.value.code == "UNAVAILABLE"
        assert fake.streams == 4
        fake.streams = 0


def test_a_request_is_resent_with_its_original_elements(fake):
    """The caller may have changed the array meanwhile."""

    async def body(client):
        query = number(1)
        task = asyncio.create_task(client.attend(query, model="breaks-twice"))
        await asyncio.sleep(0)
        query[:] = 2
        return await task

    assert (use(fake, body).output == 1).all()


def test_other_ends_of_a_stream_fail_its_requests_and_the_next_stream_works(fake):
    async def body(client):
        with pytest.raises(polyhead.InvalidArgumentError, match="no such message") as caught:
            await client.attend(QUERY, model="malformed")
        assert isinstance(caught.value.__cause__, grpc.RpcError)
        return await client.attend(QUERY, model="echo")

    use(fake, body)
    assert fake.streams == 2


def test_a_server_may_be_replaced_while_a_request_is_pending(fake, streaming):
    """The next server at the same address answers the pending request."""
    with ThreadPoolExecutor(1) as thread:
        call = thread.submit(streaming.attend, QUERY, model="wait")
        assert fake.entered.wait(30)
        fake.server.stop(None).wait()
        fake.release.set()
        successor = FakeServer()
        successor.release.set()
        server = start(successor, fake.target)
        np.testing.assert_array_equal(call.result(30).output, QUERY)
        assert (successor.calls, successor.streams) == (1, 1)
    server.stop(None).wait()


def test_a_missing_server_is_reported_within_seconds(fake):
    fake.server.stop(None).wait()
    started = time.monotonic()
    for error in both(fake, model="echo"):
        assert type(error) is polyhead.ServerUnavailableError
    assert time.monotonic() - started < 10


def test_a_server_without_streams_is_named():
    server = grpc.server(ThreadPoolExecutor(1))
    fake = FakeServer()
    fake.target = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    for error in both(fake, model="echo"):
        assert type(error) is polyhead.UnsupportedOperationError
        assert 'transport="unary"' in str(error)
        assert error.code == "UNIMPLEMENTED"
    server.stop(None).wait()


def new_threads(before):
    return {thread.name for thread in threading.enumerate() if thread not in before}


def test_closing_cancels_calls_under_way_and_leaves_no_thread(fake):
    before = threading.enumerate()
    client = polyhead.Client(fake.target, transport="stream", timeout=30)
    with ThreadPoolExecutor(1) as thread:
        call = thread.submit(client.attend, QUERY, model="silent")
        wait_until(lambda: fake.calls)
        client.close()
        with pytest.raises(polyhead.RequestCancelledError):
            call.result(30)
    with pytest.raises(polyhead.ClientClosedError, match="closed"):
        client.attend(QUERY, model="echo")
    client.close()  # closing twice is allowed
    assert "polyhead-stream" not in new_threads(before)
    # gRPC's own threads, which write our messages, end a little later
    wait_until(lambda: not any(name.endswith("(_run)") for name in new_threads(before)))


def test_async_closing_cancels_calls_under_way(fake):
    async def body(client):
        task = asyncio.create_task(client.attend(QUERY, model="silent"))
        await asyncio.to_thread(wait_until, lambda: fake.calls)
        await client.close()
        with pytest.raises(polyhead.RequestCancelledError, match="close"):
            await task
        with pytest.raises(polyhead.ClientClosedError, match="closed"):
            await client.attend(QUERY, model="echo")

    use(fake, body)


def test_a_client_that_is_garbage_collected_ends_its_stream(fake):
    before = threading.enumerate()
    client = polyhead.Client(fake.target, transport="stream")
    client.attend(QUERY, model="echo")
    assert "polyhead-stream" in new_threads(before)
    del client
    gc.collect()
    wait_until(lambda: "polyhead-stream" not in new_threads(before))


FORK = """
import os
import sys
import numpy as np
import polyhead

query = np.ones((1, 2, 3), np.float32)
with polyhead.Client(sys.argv[1], transport=sys.argv[2], timeout=30) as client:
    client.attend(query, model="echo")
    child = os.fork()
    if not child:
        try:
            os.write(1, f"{client.attend(query, model='echo').output.shape}\\n".encode())
        except polyhead.ClientClosedError as error:
            os.write(1, f"{error}\\n".encode())  # unbuffered, as gRPC may crash in a fork later
        client.close()
        os._exit(0)
    os.waitpid(child, 0)
    print(client.attend(query, model="echo").output.shape)
"""


@pytest.mark.parametrize("transport", ["stream", "unary"])
def test_a_forked_process_is_refused_and_must_make_its_own_client(fake, transport):
    """A unary call may be answered, as some versions of gRPC reconnect a fork's channels."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", FORK, fake.target, transport],
        capture_output=True,
        text=True,
        timeout=20,  # the client's would be over later
        check=True,
        # gRPC's fork hooks; without them old versions of gRPC crash in the child (SIGSEGV)
        env=os.environ | {"GRPC_ENABLE_FORK_SUPPORT": "1"},
    )
    of_child, of_parent = done.stdout.splitlines()
    refused = {"this Client was made in another process: make one in each process"}
    assert of_child in (refused | {"(1, 2, 3)"} if transport == "unary" else refused)
    assert of_parent == "(1, 2, 3)"


def test_another_loop_is_refused(fake):
    client = polyhead.AsyncClient(fake.target, transport="stream")

    async def call():
        return await client.attend(QUERY, model="echo")

    async def close_where_it_was_made():
        await call()
        with pytest.raises(polyhead.ClientClosedError, match="another event loop"):
            await asyncio.to_thread(asyncio.run, call())
        await client.close()

    asyncio.run(close_where_it_was_made())


def test_connections_are_used_in_turn(fake):
    async def body(client):
        await asyncio.gather(*(client.attend(number(n), model="echo") for n in range(12)))

    use(fake, body, connections=3)
    assert fake.streams == len(fake.peers) == 3
    with polyhead.Client(fake.target, transport="stream", connections=2) as client:
        for n in range(4):
            client.attend(number(n), model="echo")
    assert fake.streams == len(fake.peers) == 5


def test_bad_arguments_are_not_sent(fake, streaming):
    with pytest.raises(polyhead.InvalidArgumentError, match=r"query\[None\]"):
        streaming.attend(QUERY[0], model="echo")
    with pytest.raises(polyhead.InvalidArgumentError, match="timeout"):
        streaming.attend(QUERY, model="echo", timeout=0)
    assert fake.streams == 0


def test_a_request_over_the_limit_fails_alone(fake):
    """The server's gRPC ends the stream for it; LIMIT is half of what gRPC lets in."""

    async def body(client):
        queries = [number(0), np.ones((1, 1100, 1000), np.float32), number(2)]
        calls = (client.attend(query, model="echo") for query in queries)
        return await asyncio.gather(*calls, return_exceptions=True)

    first, large, last = use(fake, body)
    assert (first.output == 0).all()
    assert (last.output == 2).all()
    assert isinstance(large, polyhead.ResourceExhaustedError)
    assert large.reason == "REQUEST_TOO_LARGE"
    assert 4_400_000 < int(large.figures["got"]) < 4_400_200


def test_requests_that_are_too_large_together_are_sent_separately():
    fake = FakeServer()
    server = start(fake, limit=100_000)

    async def body(client):
        queries = [np.full((1, 100, 300), n, np.float32) for n in range(8)]  # 120 kB each
        calls = (client.attend(query, model="echo") for query in queries)
        return await asyncio.gather(*calls)

    for n, result in enumerate(use(fake, body)):
        assert (result.output == n).all()
    assert max(fake.messages) == 1
    server.stop(None).wait()


@pytest.mark.parametrize("transport", ["unary", "stream"])
@pytest.mark.parametrize("model", ["fails", "wait"])
def test_errors_keep_no_request_in_memory(fake, transport, model):
    """Requests may be large and must be freed without Python's cycle collector."""
    left = []

    def make():
        query = number(1)
        left.append(weakref.ref(query))
        return {"query": query, "model": model, "timeout": 0.3 if model == "wait" else 30}

    async def run():
        async with polyhead.AsyncClient(fake.target, transport=transport) as client:
            with suppress(polyhead.PolyheadError):
                await client.attend(**make())
            with suppress(polyhead.PolyheadError):
                async for _ in client.attend_many([make()]):
                    pass

    gc.disable()
    try:
        with polyhead.Client(fake.target, transport=transport) as client:
            with suppress(polyhead.PolyheadError):
                client.attend(**make())
            with suppress(polyhead.PolyheadError):
                list(client.attend_many([make()]))
        asyncio.run(run())
        assert [reference() for reference in left] == [None] * 4
    finally:
        gc.enable()


def test_the_client_stops_writing_to_a_server_that_does_not_read(fake):
    """The server still receives everything, a message at a time."""
    large = np.ones((1, 100, 1000), np.float32)  # 400 kB; 16 MB are more than connections buffer

    async def body(client):
        first = asyncio.create_task(client.attend(QUERY, model="wait"))
        await asyncio.to_thread(fake.entered.wait, 30)
        calls = [asyncio.create_task(client.attend(large, model="echo")) for _ in range(40)]
        await asyncio.sleep(0)  # they have been submitted
        with pytest.raises(polyhead.DeadlineExceededError):
            await client.attend(QUERY, model="late", timeout=0.5)
        assert fake.messages == [1]
        fake.release.set()
        await asyncio.gather(first, *calls)

    use(fake, body)
    # The server never saw the requests that had not been written.
    assert (sum(fake.messages), fake.cancelled_ids) == (41, [])
