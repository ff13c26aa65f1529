"""The guard before all services: whom it admits, and what methods know of the caller."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest

from polyhead_server.auth.token_file import TokenFile
from polyhead_server.auth.tokens import make_token
from polyhead_server.limits import PeerLimits
from polyhead_server.rpc.caller import current_caller
from polyhead_server.rpc.guard import Guard
from polyhead_server.rpc.handlers import service_handler
from polyhead_server.rpc.observer import CallObserver
from polyhead_server.rpc.open_calls import OpenCalls

SERVICE = "polyhead.v1.AttentionService"


class Context:
    """The part of gRPC's context that handlers use."""

    code = None

    def time_remaining(self):
        return None

    def peer_identities(self):
        return None

    def peer(self):
        return "ipv4:192.0.2.1:50412"

    def invocation_metadata(self):
        return ()

    def set_code(self, code):
        self.code = code.name

    def set_details(self, details):
        pass

    def set_trailing_metadata(self, metadata):
        pass


@pytest.fixture
def call(tmp_path):
    """Call a method as gRPC does, in a task of its own; return the status and what it saw."""
    made = {role: make_token(role, [role]) for role in ("infer", "admin")}
    file = tmp_path / "tokens"
    file.write_text("".join(f"{line}\n" for _, line in made.values()))
    seen = []

    async def attend(_, context):
        seen.append(context.origin.caller)
        seen.append(await asyncio.create_task(in_a_task()))
        return b"done"

    async def in_a_task():
        return current_caller()

    observer = CallObserver()
    handler = service_handler(SERVICE, {"Attend": attend}, observer=observer)
    guard = Guard([handler], TokenFile(file), observer)

    async def run(token):
        metadata = () if token is None else (("authorization", f"Bearer {made[token][0]}"),)
        method = f"/{SERVICE}/Attend"
        details = SimpleNamespace(method=method, invocation_metadata=metadata)
        handler, context = guard.service(details), Context()
        call = OpenCalls(PeerLimits()).begin(context, method)
        await (handler.unary_unary or handler.stream_stream)(b"", call)
        return context.code

    return lambda token: (asyncio.run(run(token)), seen)


def test_methods_know_the_name_of_the_token(call):
    assert call("infer") == (None, ["infer", "infer"])


@pytest.mark.parametrize(
    ("token", "code"), [(None, "UNAUTHENTICATED"), ("admin", "PERMISSION_DENIED")]
)
def test_refused_calls_reach_no_method(call, token, code):
    assert call(token) == (code, [])


def test_a_name_is_known_in_its_call_only(call):
    assert call("infer")[1] == ["infer", "infer"]
    assert current_caller() == ""
