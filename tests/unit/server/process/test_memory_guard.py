"""Which calls are cut when memory is short."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

from polyhead_server.process.resources.memory_guard import MemoryGuard


class Calls:
    """Calls of which messages arrive, and those of them that were cut."""

    def __init__(self, *calls):
        self._calls = [SimpleNamespace(peer_name=peer, due=due) for peer, due in calls]
        self.cut_calls = []

    def receiving(self):
        return self._calls

    def cut(self, calls, why):
        self.cut_calls += [(call.peer_name, call.due) for call in calls]
        self._calls = [call for call in self._calls if call not in calls]


def watched(calls, *used):
    """Run a guard of 100 bytes on what is used at one moment after the other."""
    moments, returned = iter(used), []

    async def scenario():
        guard = MemoryGuard(
            calls,
            100,
            used_bytes=lambda: next(moments, 0),
            return_free=lambda: returned.append(True),
            poll_s=0,
        )
        task = asyncio.create_task(guard.watch())
        for _ in range(10):
            await asyncio.sleep(0)
        task.cancel()

    asyncio.run(scenario())
    return len(returned)


def test_nothing_is_cut_while_there_is_memory():
    calls = Calls(("a", 1.0))
    assert watched(calls, 100, 100) == 0
    assert watched(calls, 101, 90) == 1  # what was free is returned first
    assert calls.cut_calls == []


def test_the_requests_of_the_peer_with_most_are_cut_first():
    calls = Calls(("a", 1.0), ("b", 1.0), ("b", 2.0), ("c", None), ("c", None), ("c", None))
    watched(calls, 101, 101)
    assert calls.cut_calls == [("b", 1.0), ("b", 2.0)]
    watched(calls, 101, 101)
    assert calls.cut_calls[2:] == [("a", 1.0)]
    watched(calls, 101, 101)
    assert calls.cut_calls[3:] == [("c", None)] * 3
    assert watched(calls, 101, 101) == 0
