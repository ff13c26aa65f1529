"""AttendStreams beside which a test runs its scenario."""

from __future__ import annotations

import asyncio

import pytest
from fake_connection import AttendConnection
from fake_requests import NEVER_INLINE, NO_DEADLINE, stream_plans

from polyhead_server.limits import InlineLimits, StreamLimits
from polyhead_server.rpc.call_context import CallContext
from polyhead_server.services.attention.refusals import RefusalPace
from polyhead_server.services.attention.stream import RequestStream
from polyhead_server.settings import ServerSettings


@pytest.fixture
def streaming(run_async, make_scheduler, gated):
    """Run a scenario beside a stream, which has ended when the scenario has.

    Requests run in worker threads; ``stream_limits`` are fields of StreamLimits.
    """

    def streaming(
        scenario,
        *,
        share_bytes=1 << 30,
        max_queue_size=2000,
        inline_limits=NEVER_INLINE,
        **stream_limits,
    ):
        settings = ServerSettings(
            max_queue_size=max_queue_size,
            inline_limits=inline_limits,
            stream_limits=StreamLimits(**stream_limits),
        )

        async def both():
            connection, draining = AttendConnection(), asyncio.Event()
            connection.scheduler = make_scheduler(max_queue_size=max_queue_size)
            stream = RequestStream(
                connection,
                CallContext("a.Service/Stream", NO_DEADLINE),
                stream_plans(gated, settings),
                connection.scheduler,
                settings,
                share_bytes=lambda: share_bytes,
                pace=RefusalPace(seconds_each=0),
            )
            serving = asyncio.create_task(stream.serve(draining))
            await scenario(connection, serving, draining)
            await asyncio.wait((serving,))
            for _ in range(3):
                await asyncio.sleep(0)  # what was cancelled has ended
            assert not stream._running
            assert not stream._inline
            return connection, serving

        return run_async(both())

    return streaming


@pytest.fixture
def streaming_inline(streaming):
    """Run a scenario as `streaming` does, but run requests on the event loop.

    ``limits`` are fields of InlineLimits or of StreamLimits.
    """

    def streaming_inline(scenario, **limits):
        names = limits.keys() & set(InlineLimits.__slots__)
        inline_limits = InlineLimits(**{name: limits.pop(name) for name in names})
        return streaming(scenario, inline_limits=inline_limits, **limits)

    return streaming_inline
