"""TLS and client certificates: who is served, and who is refused."""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path

import grpc
import numpy as np
import pytest
import trustme
from call_log import call_log
from certificates import expired, pem
from tls_server import PATIENCE_S, handshake, refusal, serve, trusting
from tritonclient_requests import stock

import polyhead

QUERY = np.ones((1, 3, 6), np.float32)


@pytest.fixture(scope="module")
def server(authority, tmp_path_factory):
    """A server that asks for no certificates of clients."""
    folder = tmp_path_factory.mktemp("tls") / "server"
    with serve(folder, authority.issue_cert("localhost")) as (server, _):
        yield server


def attend(server, tls, host="localhost", **options):
    with polyhead.Client(f"{host}:{server.port}", tls=tls, timeout=PATIENCE_S, **options) as client:
        return client.attend(QUERY, model="river-bank")


@pytest.mark.parametrize("transport", ["unary", "stream"])
def test_calls_are_answered(server, authority, transport):
    tls = trusting(authority)
    output = attend(server, tls, transport=transport).output

    async def scenario():
        target = f"localhost:{server.port}"
        async with polyhead.AsyncClient(target, tls=tls, transport=transport) as client:
            assert await client.is_ready()
            return (await client.attend(QUERY, model="river-bank")).output

    np.testing.assert_array_equal(asyncio.run(scenario()), output)


def test_an_https_target_is_called_with_the_clients_authorities(server, authority):
    assert attend(server, trusting(authority), "https://localhost").output.size


def test_another_name_is_accepted_if_the_client_expects_it(server, authority):
    assert attend(server, trusting(authority, server_name="localhost"), "127.0.0.1").output.size


@pytest.mark.parametrize(
    ("tls", "host"),
    [
        (lambda _: trusting(trustme.CA()), "localhost"),
        (trusting, "127.0.0.1"),
        (lambda authority: trusting(authority, server_name="example.org"), "localhost"),
        (lambda _: polyhead.TLSConfig(), "localhost"),
    ],
    ids=["another authority", "another host", "another name", "the usual authorities"],
)
def test_a_client_refuses_a_server_that_it_cannot_trust(server, authority, tls, host):
    assert refusal(server, tls(authority), host)


def test_the_error_names_what_to_check(server):
    with pytest.raises(polyhead.ServerUnavailableError, match=r"no TLS connection .*--tls-ca"):
        attend(server, trusting(trustme.CA(), server_name="localhost"), "127.0.0.1")


def test_plaintext_is_not_answered(server):
    with grpc.insecure_channel(server.target) as channel, pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary("/grpc.health.v1.Health/Check")(b"", timeout=PATIENCE_S)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


def test_an_expired_certificate_of_the_server_is_refused(authority, tmp_path):
    with serve(tmp_path / "server", expired(authority, "localhost")) as (server, _):
        assert "expired" in refusal(server, trusting(authority))


def test_tls_1_2_and_1_3_are_spoken(server, authority):
    for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        assert handshake(server.port, authority, version)[0] == version.name.replace("_", ".")


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1])
def test_older_versions_are_refused(server, authority, version):
    with pytest.raises((ssl.SSLError, ConnectionError)):
        handshake(server.port, authority, version)


def test_only_clients_with_a_valid_certificate_get_in(mutual, authority):
    server, *_ = mutual
    assert not refusal(server, trusting(authority, authority.issue_cert("client")))
    for refused in (None, trustme.CA().issue_cert("client"), expired(authority, "client")):
        assert refusal(server, trusting(authority, refused))


def test_a_caller_has_the_name_in_its_certificate(mutual, authority):
    server, *_ = mutual
    client = trusting(authority, authority.issue_cert("robot.example"))
    with call_log() as log:
        attend(server, client)
        attend(server, client, transport="stream")
        lines = log.first(3)  # the stream's own comes when the client has gone
    assert [vars(line).get("caller") for line in lines] == ["robot.example"] * 3


def test_stock_clients_show_their_certificates(mutual, authority, tmp_path):
    server, *_ = mutual
    client = authority.issue_cert("client")
    contents = {
        "root_certificates": authority.cert_pem.bytes(),
        "certificate_chain": pem(client),
        "private_key": client.private_key_pem.bytes(),
    }
    paths = {name: str(tmp_path / name) for name in contents}
    for name, path in paths.items():
        Path(path).write_bytes(contents[name])
    with stock.InferenceServerClient(f"localhost:{server.port}", ssl=True, **paths) as triton:
        assert triton.is_server_live()
