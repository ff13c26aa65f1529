"""Limits of one message of an AttendStream."""

from __future__ import annotations

__all__ = ["MAX_CANCELLED_IDS", "MAX_STREAMED_REQUESTS"]

MAX_STREAMED_REQUESTS = 2048
"""Most requests in a message."""
MAX_CANCELLED_IDS = 2048
"""Most ids of cancelled requests in a message."""
