"""`polyhead serve --workers`: one port, several processes, none of them indispensable."""

from __future__ import annotations

import itertools
import json
import signal
import socket
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager

import grpc
import numpy as np
import psutil
import pytest
from serving import command, serving

from polyhead.cli.servers import metrics_page
from polyhead.v1 import attention_pb2 as pb
from polyhead.v1 import attention_pb2_grpc
from polyhead.wire.tensors import to_tensor
from polyhead_server.errors import StartupError
from polyhead_server.process.resources.cpus import available_cpus
from polyhead_server.running import running_server


@contextmanager
def group(*arguments):
    """Two workers, with `pids`: the process of each worker, by number."""
    with serving("--workers", 2, *arguments) as server:
        started = [event for event in server.events if event["event"] == "worker serving"]
        server.pids = {event["worker"]: event["pid"] for event in started}
        yield server


@contextmanager
def connection(address):
    """A connection of its own: gRPC has channels of one process share theirs otherwise."""
    options = [("grpc.use_local_subchannel_pool", 1)]
    with grpc.insecure_channel(address, options) as channel:
        yield attention_pb2_grpc.AttentionServiceStub(channel)


def request(request_id=""):
    query = to_tensor(np.ones((1, 3, 6), np.float32))
    return pb.AttendRequest(model="river-bank", query=query, request_id=request_id)


class Load:
    """Callers, each with a connection of its own, that call until they have to stop."""

    def __init__(self, address, num_callers=4):
        self.answered, self.codes = set(), set()
        """Request ids of calls that were answered; how others ended."""
        self._address = address
        self._answers = threading.Semaphore(0)
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._call, args=(i,)) for i in range(num_callers)]

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _call(self, caller):
        with connection(self._address) as stub:
            for number in itertools.count():
                if self._stop.is_set():
                    break
                try:
                    stub.Attend(request(f"{caller}-{number}"), timeout=30)
                except grpc.RpcError as error:
                    self.codes.add(error.code().name)
                    self._stop.wait(0.05)  # a port that is gone refuses thousands a second
                else:
                    self.answered.add(f"{caller}-{number}")
                    self._answers.release()

    def wait_for_answers(self, count):
        for _ in range(count):
            assert self._answers.acquire(timeout=30)


def assert_gone(pids):
    """Wait until processes have ended."""
    processes = [psutil.Process(pid) for pid in pids if psutil.pid_exists(pid)]
    _, alive = psutil.wait_procs(processes, timeout=30)
    assert alive == []


# ---------------------------------------------------------------- serving


def test_a_group_serves_as_one_server_and_shares_its_connections_out():
    with group("--metrics-port", 0) as server:
        (event,) = [event for event in server.events if event["event"] == "serving"]
        assert event["workers"] == 2 == len(set(server.pids.values()))
        assert event["threads"] == max(1, available_cpus() // 2)
        assert {"address", "models", "provider"} < set(event)

        assert all(gets_calls(pid, server.address) for pid in server.pids.values())

        page = read_page(event)
        assert workers_of(page) == {"1", "2"}
        assert page.total("grpc_server_handled_total", grpc_method="Attend") >= 2
        hung = psutil.Process(server.pids[2])
        hung.suspend()
        assert workers_of(read_page(event)) == {"1"}
        hung.resume()
        assert workers_of(read_page(event)) == {"1", "2"}


def read_page(serving_event):
    """Read the metrics of a group, whose supervisor has the port."""
    host, _, port = serving_event["metrics"].partition(":")
    return metrics_page.read_page(host, int(port), 10)


def workers_of(page):
    """Return the numbers of the workers that the metrics are of."""
    return {labels["worker"] for labels, _ in page.samples["process_resident_memory_bytes"]}


def gets_calls(pid, address):
    """Connect anew until a worker is the one that answers: the kernel draws one each time."""
    with ExitStack() as connections:
        for _ in range(64):
            stub = connections.enter_context(connection(address))
            assert stub.Attend(request(), timeout=30).output.shape == [1, 3, 6]
            if is_connected(pid):
                return True
    return False


def is_connected(pid):
    """Whether a process has any client."""
    connections = psutil.Process(pid).net_connections("tcp")
    return psutil.CONN_ESTABLISHED in {connection.status for connection in connections}


def test_a_server_in_this_process_has_no_workers():
    with pytest.raises(StartupError, match=r"running_server .* `polyhead serve --workers`"):
        running_server(workers=2).__enter__()


# ---------------------------------------------------------------- workers that end


def test_a_worker_killed_under_load_is_replaced():
    with group("--metrics-port", 0) as server, Load(server.address) as load:
        serving_event = next(event for event in server.events if event["event"] == "serving")
        load.wait_for_answers(50)
        psutil.Process(server.pids[1]).kill()

        ended = server.read_until("worker ended")
        assert (ended["worker"], ended["pid"], ended["status"]) == (1, server.pids[1], -9)
        load.wait_for_answers(50)
        successor = server.read_until("worker serving")
        assert successor["worker"] == 1
        assert successor["pid"] not in server.pids.values()
        assert gets_calls(successor["pid"], server.address)
        assert workers_of(read_page(serving_event)) == {"1", "2"}
    assert load.codes <= {"UNAVAILABLE"}


def test_a_stop_while_a_worker_is_being_replaced_leaves_no_process():
    with group() as server:
        psutil.Process(server.pids[2]).kill()
        server.read_until("worker ended")
        everybody = psutil.Process(server.process.pid).children(recursive=True)
        server.process.terminate()
        assert server.process.wait(timeout=30) == 0
        assert_gone([process.pid for process in everybody])
        assert "Traceback" not in server.process.stderr.read()


# ---------------------------------------------------------------- the end of the group


def test_sigterm_under_load_loses_no_call_that_was_taken_up():
    with (
        group("--log-level", "debug") as server,
        ThreadPoolExecutor(1) as reader,
        Load(server.address) as load,
    ):
        # read all the while, or the workers would stand still as soon as the pipe is full
        reading = reader.submit(lambda: [json.loads(line) for line in server.process.stderr])
        load.wait_for_answers(100)
        server.process.send_signal(signal.SIGTERM)
        events = reading.result(timeout=60)
        assert server.process.wait(timeout=30) == 0
        assert_gone(server.pids.values())
    calls = [event for event in events if event["event"] == "call"]
    assert {event["code"] for event in calls} == {"OK"}
    assert {event["request_id"] for event in calls} <= load.answered
    assert load.codes <= {"UNAVAILABLE"}
    assert [event["event"] for event in events if "worker" not in event] == ["stopped"]


def test_workers_do_not_outlive_their_supervisor():
    with group() as server:
        server.process.kill()
        server.process.wait(timeout=30)
        assert_gone(server.pids.values())
        log = server.process.stderr.read()
    assert log.count('"draining"') == log.count('"stopped"') == 2
    assert "Traceback" not in log


# ---------------------------------------------------------------- starts that fail


def refusal(*arguments):
    """What a server that cannot start writes last."""
    ended = subprocess.run(
        command("serve", "--log-format", "json", *arguments),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 2
    assert "Traceback" not in ended.stderr
    return ended.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    "arguments", [["--models", "no/such/folder"], ["--provider", "cuda"], ["--port", "TAKEN"]]
)
def test_a_start_that_cannot_be_is_refused_as_one_process_is(arguments):
    with socket.socket() as taken, ThreadPoolExecutor(2) as runs:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        places = {"TAKEN": str(taken.getsockname()[1])}
        given = ["--port", "0", *(places.get(a, a) for a in arguments)]
        alone, many = runs.map(lambda n: refusal(*given, "--workers", n), (1, 2))
    assert many == alone
    assert many.startswith("polyhead: ")


def test_a_port_that_a_group_has_is_refused_to_all_others():
    with group() as server, ThreadPoolExecutor(2) as runs:
        port = server.address.rpartition(":")[2]
        for message in runs.map(lambda n: refusal("--port", port, "--workers", n), (1, 2)):
            assert f"{port}: Address already in use" in message
        assert gets_calls(server.pids[1], server.address)


def test_a_group_is_refused_the_port_of_one_process():
    with running_server() as server:
        assert "Address already in use" in refusal("--port", server.port, "--workers", 2)
