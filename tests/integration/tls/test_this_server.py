"""Commands beside a server ask the one that the environment's settings are for, as probes do."""

from __future__ import annotations

import pytest
import trustme
from secret_files import ServerFiles
from tls_server import serve

from polyhead import cli
from polyhead.cli.servers.this_server import own_address, own_tls
from polyhead_server.running import running_server


@pytest.fixture(autouse=True)
def no_other_settings(monkeypatch):
    monkeypatch.delenv("POLYHEAD_SERVER", raising=False)


@pytest.mark.parametrize(
    ("environment", "address"),
    [
        ({}, "localhost:50051"),
        ({"POLYHEAD_PORT": "6000"}, "localhost:6000"),
        ({"POLYHEAD_HOST": "0.0.0.0", "POLYHEAD_PORT": "6000"}, "localhost:6000"),
        ({"POLYHEAD_HOST": "10.0.0.1"}, "10.0.0.1:50051"),
        ({"POLYHEAD_HOST": "fe80::1", "POLYHEAD_PORT": "1"}, "[fe80::1]:1"),
        ({"POLYHEAD_HOST": "unix:/run/s", "POLYHEAD_PORT": "1"}, "unix:/run/s"),
        ({"POLYHEAD_PORT": "0"}, "localhost:50051"),
        ({"POLYHEAD_PORT": "tcp://10.0.0.1:50051"}, "localhost:50051"),  # Kubernetes sets such
    ],
)
def test_the_address_is_that_of_the_settings(environment, address):
    assert own_address(environment) == address


def test_the_port_of_the_environment_is_called(monkeypatch, capsys):
    with running_server() as server:
        monkeypatch.setenv("POLYHEAD_PORT", str(server.port))
        for command in ("health", "info", "models"):
            assert cli.main([command]) == 0, capsys.readouterr().err


@pytest.mark.parametrize("names", [("localhost",), ("*.example.org",), ("10.1.2.3", "a.example")])
def test_a_certificate_of_the_environment_is_trusted(names, authority, tmp_path, monkeypatch):
    with serve(tmp_path / "server", authority.issue_cert(*names)) as (server, files):
        monkeypatch.setenv("POLYHEAD_PORT", str(server.port))
        assert cli.main(["health"]) == 1  # without its certificate
        monkeypatch.setenv("POLYHEAD_TLS_CERT", str(files.certificate))
        assert cli.main(["health"]) == 0
        (tmp_path / "other").mkdir()
        other = ServerFiles(tmp_path / "other")
        other.put_pair(trustme.CA().issue_cert(*names))
        monkeypatch.setenv("POLYHEAD_TLS_CERT", str(other.certificate))
        assert cli.main(["health"]) == 1


def test_a_certificate_of_the_client_goes_with_it(authority, tmp_path, monkeypatch):
    """As in a container whose server asks for certificates: its own is shown."""
    (tmp_path / "ca.pem").write_bytes(authority.cert_pem.bytes())
    certificate, settings = (
        authority.issue_cert("a.example"),
        {"tls_client_ca": tmp_path / "ca.pem"},
    )
    with serve(tmp_path / "server", certificate, **settings) as (server, files):
        monkeypatch.setenv("POLYHEAD_PORT", str(server.port))
        monkeypatch.setenv("POLYHEAD_TLS_CERT", str(files.certificate))
        assert cli.main(["health"]) == 1  # without a certificate of its own
        monkeypatch.setenv("POLYHEAD_CLIENT_TLS_CERT", str(files.certificate))
        monkeypatch.setenv("POLYHEAD_CLIENT_TLS_KEY", str(files.key))
        assert cli.main(["health"]) == 0


def test_that_certificate_is_not_used_for_another_server(authority, tmp_path, monkeypatch):
    files = ServerFiles(tmp_path)
    files.put_pair(authority.issue_cert("localhost"))
    monkeypatch.setenv("POLYHEAD_TLS_CERT", str(files.certificate))
    with running_server() as server:
        assert cli.main(["health", server.target]) == 0


@pytest.mark.parametrize("content", ["", "-----BEGIN CERTIFICATE-----\nMIIB\n"])
def test_an_unreadable_certificate_is_reported(content, tmp_path, monkeypatch, capsys):
    file = tmp_path / "cert.pem"
    file.write_text(content)
    monkeypatch.setenv("POLYHEAD_TLS_CERT", str(file))
    assert cli.main(["health"]) == 2
    assert f"POLYHEAD_TLS_CERT is {file}, which cannot be read" in capsys.readouterr().err


def test_without_a_certificate_there_is_no_tls():
    assert own_tls({}) is None
