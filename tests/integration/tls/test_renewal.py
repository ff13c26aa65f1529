"""Certificates and authorities are renewed while the server serves."""

from __future__ import annotations

import logging
import socket
import ssl
import threading
import time

import grpc
import pytest
import trustme
from certificates import pem
from secret_files import replace_file
from tls_server import PATIENCE_S, handshake, refusal, serve, tls_context, trusting


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
