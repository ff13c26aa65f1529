"""The advice of error messages about the proxy; that gRPC agrees is tested with a real proxy."""

from __future__ import annotations

import pytest
from fake_proxy import VARIABLES

from polyhead._proxies import proxy_advice


@pytest.fixture(autouse=True)
def _environment(monkeypatch):
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


def test_without_a_proxy_there_is_no_advice():
    assert proxy_advice("host.example:1") == ""


def test_the_advice_names_variable_and_host_and_no_credentials(monkeypatch):
    monkeypatch.setenv("https_proxy", "http://user:secret@proxy:3128")
    for target in ("host.example:1", "dns:///host.example:1", "dns:host.example"):
        advice = proxy_advice(target)
        assert "https_proxy" in advice
        assert "add host.example to no_proxy" in advice
        assert "secret" not in advice
    assert proxy_advice("localhost:1") == proxy_advice("unix:path") == ""


@pytest.mark.parametrize(
    ("entries", "is_covered"),
    [
        ("host.example", True),
        (" HOST.Example ", True),
        ("a,.example,b", True),
        ("example", True),
        ("", False),
        ("a,,b", False),
        ("a, ,b", False),
        ("*", False),
        ("host.example:1", False),
        ("host", False),
        ("10.0.0.0/8", False),
        ("nonsense/8", False),
    ],
)
def test_entries_of_no_proxy(monkeypatch, entries, is_covered):
    monkeypatch.setenv("http_proxy", "http://proxy:3128")
    monkeypatch.setenv("no_proxy", entries)
    assert (proxy_advice("host.example:1") == "") == is_covered


@pytest.mark.parametrize(
    ("target", "network"),
    [("10.1.2.3:1", "10.0.0.0/8"), ("[2001:db8::1]:1", "2001:db8::/32"), ("10.1.2.3:1", "10.1/16")],
)
def test_networks_in_no_proxy(monkeypatch, target, network):
    monkeypatch.setenv("http_proxy", "http://proxy:3128")
    monkeypatch.setenv("no_proxy", network)
    assert (proxy_advice(target) == "") == (network != "10.1/16")
