"""Which targets are called through the proxy that the environment names, and what errors say."""

from __future__ import annotations

import asyncio

import pytest
from fake_proxy import VARIABLES, fake_proxy

import polyhead
from polyhead._client import channel
from polyhead.cli import main

ELSEWHERE = "server.invalid:50051"
UNREACHABLE = "255.255.255.255:1"
"""Not an address of this machine, but one to which the system refuses to connect at once."""


@pytest.fixture(autouse=True)
def _hurried(monkeypatch):
    """Let calls be tried again without a pause, because each test waits for all attempts."""
    policy = channel._SERVICE_CONFIG["methodConfig"][0]["retryPolicy"]
    monkeypatch.setitem(policy, "initialBackoff", "0.01s")
    monkeypatch.setitem(policy, "maxBackoff", "0.01s")


@pytest.fixture
def proxy(monkeypatch):
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    with fake_proxy() as running:
        yield running


def fail(target, **options):
    """Call a target where no server is, and return the error's message."""
    with (
        polyhead.Client(target, timeout=30, **options) as client,
        pytest.raises(polyhead.PolyheadError) as caught,
    ):
        client.server_info()
    assert "secret" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    "target",
    [
        "{}",
        "dns:{}",
        "dns:///{}",
        "dns://127.0.0.1:1/{}",
        "ipv4:{}",
        "ipv4:{},{}",
    ],
)
def test_a_server_on_this_machine_is_called_directly(target, proxy, fake, monkeypatch):
    monkeypatch.setenv("http_proxy", proxy.url)
    with polyhead.Client(target.format(fake.target, fake.target), timeout=30) as client:
        assert len(client.models()) == 2
    assert proxy.requests == []


@pytest.mark.parametrize(
    "target",
    [
        "localhost:1",
        "LocalHost:1",
        "dns:localhost:1",
        "dns:/localhost:1",
        "dns:///localhost",
        "dns:%6cocalhost:1",
        "a.localhost:1",
        "0.0.0.0:1",
        "127.1.2.3:1",
        "[::]:1",
        "[::1]:1",
        "[::ffff:127.0.0.1]:1",
        "ipv6:[::1]:1",
        "ipv6:%5B::1%5D:1",
        "ipv6:///[::1]:1",
        "ipv6:[::1%25lo]:1",
        "ipv6:[::1]:1,[::1]:2",
        "unix:/nonexistent/socket",
        "unix:///nonexistent/socket",
        "unix-abstract:polyhead-nobody",
    ],
)
def test_this_machine_is_called_directly_however_it_is_spelt(target, proxy, monkeypatch):
    monkeypatch.setenv("http_proxy", proxy.url)
    assert "http_proxy" not in fail(target)
    assert proxy.requests == []


@pytest.mark.parametrize(
    ("target", "host"),
    [
        (ELSEWHERE, "server.invalid"),
        ("127.server.invalid:1", "127.server.invalid"),
        ("localhost.server.invalid:1", "localhost.server.invalid"),
        ("ipv4:192.0.2.1:1", "192.0.2.1"),
        ("dns:///[2001:db8::1]:1", "2001:db8::1"),
    ],
)
@pytest.mark.parametrize("variable", ["grpc_proxy", "https_proxy", "http_proxy"])
def test_other_machines_are_called_through_the_proxy_which_errors_name(
    variable, target, host, proxy, monkeypatch
):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")  # the other two are stronger
    monkeypatch.setenv(variable, proxy.url)
    message = fail(target)
    assert f"the environment variable {variable} names" in message
    assert f"add {host} to no_proxy" in message
    assert host in proxy.requests[0]
    assert proxy.requests[0].startswith("CONNECT ")


@pytest.mark.parametrize("connects", [{"transport": "stream"}, {"connections": 2}])
def test_every_connection_uses_the_proxy(connects, proxy, monkeypatch):
    monkeypatch.setenv("http_proxy", proxy.url)
    assert "http_proxy" in fail(ELSEWHERE, **connects)
    assert proxy.requests


def test_errors_of_every_call_name_the_proxy(proxy, monkeypatch):
    monkeypatch.setenv("http_proxy", proxy.url)

    async def fail_to_attend():
        async with polyhead.AsyncClient(ELSEWHERE, transport="stream") as client:
            await client.attend([[[1.0]]], model="any")

    with pytest.raises(polyhead.ServerUnavailableError, match="http_proxy"):
        asyncio.run(fail_to_attend())
    with (
        polyhead.Client(ELSEWHERE) as client,
        pytest.raises(polyhead.DeadlineExceededError, match="http_proxy"),
    ):
        client.wait_until_ready(timeout=0.2)


@pytest.mark.parametrize("exceptions", ["no_proxy", "no_grpc_proxy"])
@pytest.mark.parametrize(
    ("target", "entry"),
    [
        (UNREACHABLE, "255.255.255.255"),
        (UNREACHABLE, "other.example, .255"),
        (f"ipv4:{UNREACHABLE}", "255.0.0.0/8"),
    ],
)
def test_errors_name_no_proxy_that_is_not_used(exceptions, target, entry, proxy, monkeypatch):
    monkeypatch.setenv("http_proxy", proxy.url)
    monkeypatch.setenv(exceptions, entry)
    assert "proxy" not in fail(target)
    assert proxy.requests == []


def test_errors_name_the_list_of_exceptions_that_is_in_force(proxy, monkeypatch):
    monkeypatch.setenv("http_proxy", proxy.url)
    monkeypatch.setenv("no_proxy", "server.invalid")  # ignored beside no_grpc_proxy
    monkeypatch.setenv("no_grpc_proxy", "*, example.com:50051, 10.0.0.0/8, nonsense/x,")
    assert "add server.invalid to no_grpc_proxy" in fail(ELSEWHERE)
    assert proxy.requests


@pytest.mark.parametrize("value", ["", "https://127.0.0.1:1", "127.0.0.1:1"])
def test_errors_name_no_proxy_that_grpc_ignores(value, proxy, monkeypatch):
    monkeypatch.setenv("grpc_proxy", value)
    monkeypatch.setenv("http_proxy", proxy.url)  # not consulted beside grpc_proxy
    assert "proxy" not in fail(UNREACHABLE)
    assert proxy.requests == []


def test_the_command_line_names_the_proxy(proxy, monkeypatch, capsys):
    monkeypatch.setenv("http_proxy", proxy.url)
    assert main(["models", "--server", ELSEWHERE]) == 1
    assert "http_proxy" in capsys.readouterr().err
