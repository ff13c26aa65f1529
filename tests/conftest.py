"""Busy machines are slow, which is no fault of what is tested; so is a defect of gRPC."""

from __future__ import annotations

import asyncio
import threading

import hypothesis

hypothesis.settings.register_profile("polyhead", deadline=None)
hypothesis.settings.load_profile("polyhead")

_call_soon_threadsafe = asyncio.BaseEventLoop.call_soon_threadsafe


def call_soon_unless_closed(loop, callback, *args, context=None):
    """Schedule a callback; for gRPC's poller, do nothing if the loop is closed.

    A process has one poller for all its event loops. It dies of an event for a closed loop, such as
    the end of a call that was cancelled, and then every asyncio call of the process hangs (seen
    under load, with grpcio 1.80 and 1.85). Tests close hundreds of loops.
    """
    try:
        return _call_soon_threadsafe(loop, callback, *args, context=context)
    except RuntimeError:
        if loop.is_closed() and "_poll_wrapper" in threading.current_thread().name:
            return None
        raise


asyncio.BaseEventLoop.call_soon_threadsafe = call_soon_unless_closed
