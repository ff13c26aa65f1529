"""Raw HTTP/2 against a default server: one caller, a few megabytes, and all others are served."""

from __future__ import annotations

import gzip
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress

import pytest
import reconnecting
from liveness import MIB, Bystander, call_s, survives
from raw_calls import SERVICE
from raw_http2 import Ended, RawConnection, framed, rapid_resets, whole_calls
from serving import serving

import polyhead
from polyhead.v1 import attention_pb2 as pb

pytestmark = pytest.mark.faults

ATTEND = SERVICE + "Attend"
# an address that was refused in one test cannot connect in the next
CROWD, IDLE, RESETS = "127.0.0.3", "127.0.0.4", "127.0.0.5"


@pytest.fixture(scope="module")
def server():
    with serving("--threads", 1, "--receive-timeout-s", 2, "--write-timeout-s", 2) as served:
        yield served


@pytest.fixture
def other_server():
    """A server of its own, because other tests read from the log whose connections were cut."""
    with serving("--threads", 1) as served:
        yield served


@contextmanager
def attackers(server):
    """Give what connects to a server. Before the server is looked at, all connections end."""
    with ExitStack() as connections:
        yield lambda **headers: connections.enter_context(RawConnection(server.address, **headers))


@contextmanager
def busy_process():
    """Take the time of a CPU."""
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        yield
    finally:
        process.kill()
        process.wait()


def goodput(before, during, seconds):
    """Return which part of the usual calls was answered, of calls in 2 s and during an attack."""
    return sum(took < 5 for took in during) / seconds / (len(before) / 2)


# from addresses of their own, because they are refused afterwards
@pytest.mark.parametrize(("rate", "address"), [(20_000, "127.0.0.20"), (70_000, "127.0.0.21")])
def test_rapid_reset(server, rate, address):
    with (
        survives(server) as watched,
        attackers(server) as connect,
        Bystander(server.address) as bystander,
    ):
        usual = bystander.calls_during(2)
        attacker, first, peak = connect(address=address), 1, 0.0
        began = time.monotonic()
        num_cut = num_streams = 0
        while (elapsed := time.monotonic() - began) < 3:
            try:
                attacker.socket.sendall(rapid_resets(attacker, ATTEND, 200, first))
                attacker.socket.setblocking(False)
                with suppress(BlockingIOError):
                    while attacker.socket.recv(1 << 16):
                        pass
                attacker.socket.settimeout(0.5)
            except OSError:
                num_cut += 1
                with suppress(OSError):  # the kernel drops what a refused address sends
                    attacker, first = connect(address=address, connect_s=0.2), 1
                continue
            first, num_streams = first + 400, num_streams + 200
            peak = max(peak, watched.grown())
            time.sleep(max(0, num_streams / rate - elapsed))
        during = bystander.calls()
        reached = goodput(usual, during, elapsed)
        print(f"goodput {reached:.2f}, p50 {statistics.median(during) * 1e3:.0f} ms")
        print(f"{num_streams} streams, {num_cut} connections cut, {peak:.0f} MiB more")
        assert peak < 50
        assert reached > 0.75  # on an idle machine 0.95


def test_resets_over_many_connections(server):
    """Each gives up fewer calls than one connection may, of a method that does not exist."""
    with survives(server) as watched, Bystander(server.address) as bystander, ExitStack() as left:
        usual = bystander.calls_during(2)
        began, num_cut, peak = time.monotonic(), 0, 0.0
        while (elapsed := time.monotonic() - began) < 3:
            attackers = []
            for _ in range(20):
                with suppress(Ended):
                    attacker = RawConnection(server.address, address=RESETS)
                    attackers.append(left.enter_context(attacker))
                    attacker.socket.sendall(rapid_resets(attacker, "/no.Service/Method", 50, 1))
            for attacker in attackers:
                try:
                    attacker.pump(1, until=lambda _: False)
                except Ended:
                    num_cut += 1
                except TimeoutError:
                    continue
            peak = max(peak, watched.grown())
        during = bystander.calls()
        print(f"goodput {goodput(usual, during, elapsed):.2f}, {num_cut} connections cut")
        assert num_cut > 20
        assert peak < 50
        assert goodput(usual, during, elapsed) > 0.6


def test_calls_of_many_connections_that_crowd_out_others(server):
    """80 connections of one address begin 100 health checks each, again and again for 4 s."""
    health = "/grpc.health.v1.Health/Check"
    with (
        survives(server) as watched,
        Bystander(server.address) as bystander,
        ExitStack() as connections,
    ):
        usual = bystander.calls_during(2)
        crowd = [
            connections.enter_context(RawConnection(server.address, address=CROWD))
            for _ in range(80)
        ]
        began, first = time.monotonic(), 1
        while time.monotonic() - began < 4:
            for attacker in crowd:
                with suppress(OSError):  # it was ended, or does not take more at once
                    attacker.socket.settimeout(0.05)
                    attacker.socket.sendall(whole_calls(attacker, health, b"", 100, first))
                    attacker.socket.recv(1 << 20)
            first += 200
        during = bystander.calls()
        cut = server.read_until("connections cut off, because their calls crowd out others")
        print(f"goodput {goodput(usual, during, 4):.2f}")
        assert (cut["connections"], cut["most"]) == (80, 20)
        assert watched.grown() < 50
        assert goodput(usual, during, 4) > 0.6


def test_connections_that_come_back_with_calls_as_soon_as_they_are_ended(other_server):
    """400 of one address, twice a second, begin 100 health checks each, for 30 s."""
    with survives(other_server, grown_mib=30), Bystander(other_server.address) as bystander:
        usual = bystander.calls_during(2)
        command = [reconnecting.__file__, other_server.address, "400", "0.5", "30"]
        attack = subprocess.run([sys.executable, *command], capture_output=True, check=True)
        during = bystander.calls()
        print(f"goodput {goodput(usual, during, 30):.2f}; connections: {int(attack.stdout)}")
        assert int(attack.stdout) < 6000  # 24,000 if all could connect
        assert goodput(usual, during, 30) > 0.5


def test_several_addresses_that_crowd_out_others_spare_one_with_more_connections(other_server):
    """Five have 50 connections each that begin 100 calls; another has 60 that call nothing."""
    with (
        survives(other_server, grown_mib=30),
        attackers(other_server) as connect,
        Bystander(other_server.address) as bystander,
    ):
        quiet = [connect() for _ in range(60)]
        usual = bystander.calls_during(2)
        attacks = []
        for number in range(5):
            command = [reconnecting.__file__, other_server.address, "50", "2", "10"]
            command.append(f"127.0.1.{number + 1}")
            attacks.append(subprocess.Popen([sys.executable, *command], stdout=subprocess.DEVNULL))
        for attack in attacks:
            attack.wait()
        during = bystander.calls()
        print(f"goodput {goodput(usual, during, 10):.2f}")
        for connection in quiet:
            connection.wait_until_read()  # raises Ended if it was cut
        assert goodput(usual, during, 10) > 0.5


def test_streams_that_send_nothing(server):
    with survives(server) as watched, attackers(server) as connect:
        connections = [connect() for _ in range(10)]
        for _ in range(1000):
            for connection in connections:
                connection.open(ATTEND)
        for connection in connections:
            connection.pump(0.01)
        assert watched.grown() < 50


def test_messages_that_are_half_sent(server):
    message = bytes(64 * MIB)
    with survives(server) as watched, attackers(server) as connect:
        attacker = connect()
        for _ in range(4):
            attacker.open(ATTEND, message, sent=len(message))
        num_cut = 0
        while num_cut < 4:
            num_cut += server.read_until("calls cut off")["calls"]
        with polyhead.Client(server.address) as client:
            call_s(client)  # gRPC keeps the newest call until another one begins
        watched.wait_until_small()


def test_connections_that_do_nothing(server):
    """One address opens them as fast as it can; another is answered meanwhile, and afterwards."""
    with survives(server) as watched, ExitStack() as connections:
        began, most = time.monotonic(), 0
        while time.monotonic() - began < 10:
            with suppress(Ended, TimeoutError):
                attacker = RawConnection(server.address, address=IDLE, connect_s=0.5)
                connections.enter_context(attacker)
                most = max(most, watched.num_descriptors())
        assert 500 < most < 1050
        assert server.read_until("connections cut off, to leave some to others")["most"] == 500
        until = time.monotonic() + 10
        while watched.num_descriptors() > 800:
            assert time.monotonic() < until
            time.sleep(0.1)
        with polyhead.Client(server.address) as client:
            call_s(client)
        assert watched.grown() < 50


def test_gzip_bombs(server):
    bomb = framed(gzip.compress(bytes(250 * MIB)), compressed=True)
    with survives(server) as watched, attackers(server) as connect:
        began = watched.cpu_s()
        for _ in range(20):
            attacker = connect(**{"grpc-encoding": "gzip"})
            stream = attacker.open(ATTEND)
            with suppress(Exception):  # h2 says that the stream has ended meanwhile
                attacker.send(stream, bomb, end=True)
            attacker.wait_for_end(stream)
            assert attacker.status(stream) == 12
        assert watched.grown() < 20
        assert watched.cpu_s() - began < 1


def test_more_requests_than_there_is_memory():
    """24 of 16 MiB at once, where 450 MiB may be used; the last byte of each is not sent."""
    message = bytes(16 * MIB)
    with (
        serving("--threads", 1, "--max-memory-bytes", "450MiB") as server,
        survives(server) as watched,
        attackers(server) as connect,
    ):
        peak, attacker = 0.0, connect()
        for _ in range(24):
            attacker.open(ATTEND, message, sent=len(message))
            peak = max(peak, watched.grown() + watched.base / MIB)
        assert server.read_until("memory is short")
        with polyhead.Client(server.address) as client:
            call_s(client)
        print(f"{peak:.0f} MiB at most")
        assert peak < 450


def test_thousands_of_large_calls_at_once_where_there_is_little_memory():
    """2,000 of 1.9 MB over 20 connections, while other processes keep the CPUs busy."""
    message = pb.AttendRequest(kv_lengths=[1] * 1_900_000).SerializeToString()

    def attack(connection):
        with suppress(OSError, Ended):
            for _ in range(100):
                connection.open(ATTEND, message, end=True)

    with (
        serving("--threads", 1, "--max-memory-bytes", "450MiB") as server,
        survives(server) as watched,
        Bystander(server.address) as bystander,
        ExitStack() as entered,
    ):
        usual = bystander.calls_during(2)
        for _ in range(4):
            entered.enter_context(busy_process())
        crowd = [
            entered.enter_context(RawConnection(server.address, address="127.0.0.2"))
            for _ in range(20)
        ]
        began = time.monotonic()
        with ThreadPoolExecutor(len(crowd)) as threads:
            list(threads.map(attack, crowd))
        elapsed = time.monotonic() - began
        part = goodput(usual, bystander.calls(), elapsed)
        print(f"goodput {part:.2f}; {watched.peak():.0f} MiB at most")
        assert watched.peak() < 350
        assert part > 0.6
