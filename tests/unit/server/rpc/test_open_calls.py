"""How many calls a peer may have, what it owes them, and until when."""

from __future__ import annotations

import asyncio

import pytest

from polyhead_server.errors import OverloadedError
from polyhead_server.limits import PeerLimits
from polyhead_server.rpc.open_calls import OpenCalls, peer_address


@pytest.mark.parametrize(
    ("peer", "address"),
    [
        ("ipv4:10.0.0.7:50412", "10.0.0.7"),
        ("ipv6:%5B::1%5D:50412", "0000:0000:0000:0000"),
        ("ipv6:[2001:db8:1:2:3:4:5:6]:1", "2001:0db8:0001:0002"),
        ("ipv6:%5B2001:db8:1:2:ffff::%5D:2", "2001:0db8:0001:0002"),
        ("ipv6:[fe80::1%25eth0]:1", "fe80:0000:0000:0000"),
        ("unix:", "unix"),
        ("unix:/run/polyhead.sock", "unix"),
        ("", ""),
    ],
)
def test_a_peer_is_its_address_or_its_network(peer, address):
    assert peer_address(peer) == address


class Context:
    """The part of gRPC's context that open calls use."""

    def __init__(self, peer="ipv4:10.0.0.1:1", certificate=None):
        self._peer = peer
        self._certificate = certificate
        self.written = asyncio.Event()

    def peer(self):
        return self._peer

    def peer_identities(self):
        return self._certificate and [self._certificate]

    def time_remaining(self):
        return None

    async def write(self, message):
        await self.written.wait()

    async def read(self):
        await asyncio.Event().wait()


class Running:
    """Calls that are under way, each in its task."""

    def __init__(self, **limits):
        self.calls = OpenCalls(PeerLimits(**limits))

    async def begin(self, peer="ipv4:10.0.0.1:1", serve=None, certificate=None):
        begun = asyncio.get_running_loop().create_future()

        async def handle():
            try:
                call = self.calls.begin(Context(peer, certificate), "a.Service/Do")
            except OverloadedError as error:
                begun.set_exception(error)
                return
            begun.set_result(call)
            await (serve(call) if serve else asyncio.Event().wait())

        self.task = asyncio.create_task(handle())
        return await begun


def test_a_certificate_names_the_caller_wherever_it_calls_from():
    async def scenario():
        running = Running(max_calls=4, max_share=0.25)
        call = await running.begin("ipv4:10.0.0.1:1", certificate=b"ci")
        assert (call.caller_name, call.peer_name) == ("ci", "ci")
        with pytest.raises(OverloadedError, match="--max-peer-share"):
            await running.begin("ipv4:10.0.0.2:1", certificate=b"ci")
        other = await running.begin("ipv4:10.0.0.1:2")
        assert (other.caller_name, other.peer_name) == ("", "10.0.0.1")
        for one in (call, other):
            one.task.cancel()
        await asyncio.wait([one.task for one in (call, other)])

    asyncio.run(scenario())


def test_a_peer_has_its_share_of_the_calls():
    async def scenario():
        running = Running(max_calls=4, max_share=0.5)
        first = await running.begin("ipv4:10.0.0.1:1")
        calls = [first, await running.begin("ipv4:10.0.0.1:2")]
        with pytest.raises(OverloadedError, match="--max-peer-share"):
            await running.begin("ipv4:10.0.0.1:3")
        calls += [await running.begin(f"ipv4:10.0.0.{peer}:1") for peer in (2, 3)]
        with pytest.raises(OverloadedError, match="4 calls are open"):
            await running.begin("ipv4:10.0.0.4:1")
        first.task.cancel()
        await asyncio.wait([first.task])
        await asyncio.sleep(0)
        assert await running.begin("ipv4:10.0.0.1:3")
        for call in calls:
            call.task.cancel()

    asyncio.run(scenario())


def test_each_large_message_has_a_turn_of_the_event_loop_of_its_own():
    """Until then it counts as one that is being received."""
    turns = []

    async def count_turns():
        while True:
            turns.append(0)
            await asyncio.sleep(0)

    async def serve(call):
        async def read():
            return bytes(100_000)

        call._context.read = read
        await call.read()
        turns[-1] += 1

    async def scenario():
        running = Running()
        counting = asyncio.create_task(count_turns())
        await asyncio.sleep(0)
        calls = [await running.begin(serve=serve) for _ in range(20)]
        assert running.calls.receiving()
        await asyncio.wait([call.task for call in calls])
        counting.cancel()
        assert not running.calls.receiving()

    asyncio.run(scenario())
    assert max(turns) == 1


@pytest.mark.parametrize("owed", ["request", "reply", "rest"])
def test_a_call_whose_peer_owes_something_for_too_long_is_cut(owed):
    async def serve(call):
        if owed == "request":
            await call.read_request()
        elif owed == "reply":
            await call.write(b"reply")
        else:
            call.limit_write(0)
            await asyncio.Event().wait()

    async def scenario():
        limits = {"receive_timeout_s": 0.01, "write_timeout_s": 0.01, "poll_s": 0.005}
        running = Running(**limits)
        cutting = asyncio.create_task(running.calls.cut_overdue())
        released = []
        call = await running.begin(serve=serve)
        call.at_end(lambda: released.append(call))
        idle = await running.begin()
        await asyncio.wait([call.task], timeout=10)
        assert call.task.cancelled()
        assert not idle.task.done()
        await asyncio.sleep(0)
        assert released == [call]
        assert len(running.calls) == 1
        for task in (cutting, idle.task):
            task.cancel()

    asyncio.run(scenario())


def test_what_is_taken_is_not_owed_any_more():
    async def scenario():
        running = Running()

        async def serve(call):
            await call.write(b"reply")
            await asyncio.Event().wait()

        call = await running.begin(serve=serve)
        await asyncio.sleep(0)
        assert call.due is not None
        call._context.written.set()
        await asyncio.sleep(0.01)
        assert call.due is None
        call.task.cancel()

    asyncio.run(scenario())


def test_larger_messages_may_take_the_peer_longer():
    limits = PeerLimits(write_timeout_s=60.0, min_write_bytes_per_s=100_000)
    assert limits.max_seconds_to_write(0) == 60.0
    assert limits.max_seconds_to_write(10_000_000) == 160.0
