"""TLS and client certificates: who is refused, and how certificates are renewed while serving."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import socket
import ssl
import threading
import time
import warnings
from contextlib import contextmanager
from pathlib import Path

import grpc
import numpy as np
import pytest
import trustme
from call_log import call_log
from certificates import expired, pem
from secret_files import ServerFiles, replace_file
from serving import serving
from tritonclient_requests import stock

import polyhead
from polyhead import cli
from polyhead_server.auth.tokens import make_token
from polyhead_server.limits import RenewalLimits
from polyhead_server.running import running_server

QUERY = np.ones((1, 3, 6), np.float32)
PATIENCE_S = 20
SOON = RenewalLimits(poll_s=0.02)


@pytest.fixture(scope="module")
def authority():
    return trustme.CA()


@contextmanager
def serve(folder, certificate, **settings):
    """A server with a certificate, and `files` to renew it."""
    folder.mkdir()
    files = ServerFiles(folder)
    files.put_pair(certificate)
    with running_server(
        tls_cert=files.certificate, tls_key=files.key, renewal_limits=SOON, **settings
    ) as server:
        yield server, files


@pytest.fixture(scope="module")
def server(authority, tmp_path_factory):
    """A server that asks for no certificates of clients."""
    folder = tmp_path_factory.mktemp("tls") / "server"
    with serve(folder, authority.issue_cert("localhost")) as (server, _):
        yield server


@pytest.fixture
def mutual(authority, tmp_path):
    """A server that asks for certificates of clients, and the file of their authorities."""
    ca = tmp_path / "ca"
    ca.write_bytes(authority.cert_pem.bytes())
    certificate = authority.issue_cert("localhost")
    with serve(tmp_path / "server", certificate, tls_client_ca=ca) as (server, files):
        yield server, files, ca


def trusting(authority, client_certificate=None, **fields):
    if client_certificate is not None:
        fields["certificate_chain"] = pem(client_certificate)
        fields["private_key"] = client_certificate.private_key_pem.bytes()
    return polyhead.TLSConfig(root_certificates=authority.cert_pem.bytes(), **fields)


def attend(server, tls, host="localhost", **options):
    with polyhead.Client(f"{host}:{server.port}", tls=tls, timeout=PATIENCE_S, **options) as client:
        return client.attend(QUERY, model="river-bank")


def refusal(server, tls, host="localhost"):
    """Why there is no connection with a server; empty if there is one. It is tried once."""
    parts = tls.root_certificates, tls.private_key, tls.certificate_chain
    options = [("grpc.ssl_target_name_override", tls.server_name)] if tls.server_name else None
    credentials = grpc.ssl_channel_credentials(*parts)
    with grpc.secure_channel(f"{host}:{server.port}", credentials, options) as channel:
        try:
            channel.unary_unary("/grpc.health.v1.Health/Check")(b"", timeout=PATIENCE_S)
        except grpc.RpcError as error:
            return error.details()
    return ""


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


def tls_context(authority, version=None):
    """Trust an authority, and speak one version of TLS."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cadata=authority.cert_pem.bytes().decode())
    context.set_alpn_protocols(["h2"])
    if version is not None:
        context.set_ciphers("DEFAULT:@SECLEVEL=0")  # otherwise OpenSSL itself refuses TLS 1.1
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            context.minimum_version = context.maximum_version = version
    return context


def handshake(port, authority, version=None):
    """Speak TLS with a server; return the version and the SHA-256 of the server's certificate."""
    context = tls_context(authority, version)
    with (
        socket.create_connection(("localhost", port), timeout=PATIENCE_S) as raw,
        context.wrap_socket(raw, server_hostname="localhost") as connection,
    ):
        digest = hashlib.sha256(connection.getpeercert(binary_form=True)).hexdigest()
        return connection.version(), digest


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
    assert [vars(line).get("caller") for line in log.lines] == ["robot.example"] * 3


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


@pytest.fixture
def log(caplog):
    """Wait for an event of the log about files, and clear what was logged until then."""
    caplog.set_level(logging.INFO, "polyhead.security")

    def wait_for(event):
        give_up_at = time.monotonic() + PATIENCE_S
        while True:
            found = [record for record in caplog.records if record.message == event]
            if found:
                caplog.clear()
                return found[0]
            assert time.monotonic() < give_up_at, caplog.records
            time.sleep(0.01)

    return wait_for


class Load:
    """Callers with one connection, and callers with a new connection for each call."""

    def __init__(self, port, authority):
        self.failures, self.num_calls = [], 0
        self._port, self._root = port, authority.cert_pem.bytes()
        self._is_over = threading.Event()
        self._threads = [threading.Thread(target=self._call, args=(is_new,)) for is_new in (0, 1)]

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self._is_over.set()
        for thread in self._threads:
            thread.join()

    def _connect(self):
        options = [("grpc.use_local_subchannel_pool", 1)]
        credentials = grpc.ssl_channel_credentials(self._root)
        return grpc.secure_channel(f"localhost:{self._port}", credentials, options)

    def _call(self, is_new):
        with self._connect() as kept:
            while not self._is_over.is_set():
                channel = self._connect() if is_new else kept
                try:
                    channel.unary_unary("/grpc.health.v1.Health/Check")(b"", timeout=PATIENCE_S)
                    self.num_calls += 1
                except grpc.RpcError as error:
                    self.failures.append(error)
                if is_new:
                    channel.close()


def test_a_certificate_is_renewed_under_load_without_a_failed_call(tmp_path, authority, log):
    first, second, third = (authority.issue_cert("localhost") for _ in range(3))
    with serve(tmp_path / "server", first) as (server, files):

        def in_use():
            return handshake(server.port, authority)[1]

        with Load(server.port, authority) as load:
            before = in_use()
            files.put_pair(second)
            assert log("certificate renewed").certificate_sha256 == in_use() != before
            before = in_use()
            # another server's key: the pair that fits stays in use
            files.put(pem(third), second.private_key_pem.bytes())
            assert "key values mismatch" in log("certificate not renewed").reason
            assert in_use() == before
            files.put_pair(third)
            log("certificate renewed")
            assert in_use() != before
        assert load.failures == []
        assert load.num_calls > 2


def test_authorities_of_clients_are_renewed_and_never_dropped(mutual, authority, log):
    server, _, ca = mutual
    other = trustme.CA()
    ours, theirs = (trusting(authority, a.issue_cert("client")) for a in (authority, other))
    for damaged in (b"", b"garbage", authority.cert_pem.bytes()[:-200]):
        replace_file(ca, damaged)
        assert "--tls-client-ca" in log("certificate not renewed").reason
        assert refusal(server, trusting(authority))
        assert not refusal(server, ours)
    replace_file(ca, other.cert_pem.bytes())
    log("certificate renewed")
    assert refusal(server, ours)
    assert not refusal(server, theirs)


def test_a_session_from_before_does_not_outlive_its_authority(mutual, authority, log, tmp_path):
    server, _, ca = mutual
    client = authority.issue_cert("client")
    (tmp_path / "client").write_bytes(pem(client) + client.private_key_pem.bytes())
    context = tls_context(authority, ssl.TLSVersion.TLSv1_2)
    context.load_cert_chain(tmp_path / "client")

    def connect(session=None):
        address = "localhost", server.port
        with (
            socket.create_connection(address, timeout=PATIENCE_S) as raw,
            context.wrap_socket(raw, server_hostname="localhost", session=session) as connection,
        ):
            return connection.session_reused, connection.session

    _, session = connect()
    assert connect(session)[0]
    replace_file(ca, trustme.CA().cert_pem.bytes())
    log("certificate renewed")
    with pytest.raises((ssl.SSLError, ConnectionError)):
        connect(session)


@pytest.mark.alone
def test_workers_and_every_command_speak_tls_and_send_the_token(
    tmp_path, authority, monkeypatch, capsys
):
    files, client = ServerFiles(tmp_path), authority.issue_cert("client")
    files.put_pair(authority.issue_cert("localhost"))
    token, line = make_token("ci", ["infer"])
    contents = {
        "ca": authority.cert_pem.bytes(),
        "cert": pem(client),
        "key": client.private_key_pem.bytes(),
        "token": token.encode(),
        "tokens": str(line).encode(),
    }
    paths = {name: tmp_path / name for name in contents}
    for name, path in paths.items():
        path.write_bytes(contents[name])
    np.save(tmp_path / "query.npy", QUERY)
    commands = [
        ["models"],
        ["info"],
        ["attend", str(tmp_path / "query.npy"), "--model", "river-bank"],
        ["bench", "--requests", "8", "--warmup", "0.1", "--tokens", "3"],
        ["demo"],
    ]
    with serving(
        *("--workers", 2, "--tokens-file", paths["tokens"], "--tls-client-ca", paths["ca"]),
        *("--tls-cert", files.certificate, "--tls-key", files.key),
    ) as server:
        monkeypatch.setenv("POLYHEAD_SERVER", server.address.replace("127.0.0.1", "localhost"))
        assert cli.main(["health"]) == 1
        monkeypatch.setenv("POLYHEAD_CLIENT_TLS_CA", str(paths["ca"]))
        assert cli.main(["health"]) == 1
        monkeypatch.setenv("POLYHEAD_CLIENT_TLS_CERT", str(paths["cert"]))
        monkeypatch.setenv("POLYHEAD_CLIENT_TLS_KEY", str(paths["key"]))
        assert cli.main(["health"]) == 0
        for command in commands[:3]:
            assert cli.main(command) == 1
            assert "needs a token" in capsys.readouterr().err
        monkeypatch.setenv("POLYHEAD_CLIENT_TOKEN_FILE", str(paths["token"]))
        for command in commands:
            assert cli.main(command) == 0, capsys.readouterr().err
