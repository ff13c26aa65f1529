"""The methods that clients call by name, with messages of bytes."""

from __future__ import annotations

ATTEND = "/polyhead.v1.AttentionService/Attend"
ATTEND_ROWS = "/polyhead.v1.AttentionService/AttendRows"
ATTEND_STREAM = "/polyhead.v1.AttentionService/AttendStream"
FORWARD = "/polyhead.v1.AttentionService/Forward"
HEALTH_CHECK = "/grpc.health.v1.Health/Check"
"""Called with an empty message, which means the server as a whole."""
SERVING = b"\x08\x01"
"""The serialised HealthCheckResponse(status=SERVING), the only one that means ready."""
POLL_INTERVAL_S = 0.1
"""Pause of wait_until_ready between two health checks."""
