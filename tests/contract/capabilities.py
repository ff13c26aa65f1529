"""What a kind of deployment cannot do, and why: the one place where the contract has exceptions.

A test that requires what a deployment lacks must fail there, so a line that has become wrong is
noticed.
"""

from __future__ import annotations

LACKS = {
    "server": {},
    "envoy": {
        "watches health": "envoy.yaml refuses Health.Watch, which would show one replica's health",
    },
    "ray": {
        "refuses compressed requests": "Serve's gRPC proxy decompresses them, and no setting "
        "keeps it from that",
    },
}
"""Reasons, by kind of deployment and by what it lacks."""
