"""A server that speaks TLS, and clients that trust it or do not."""

from __future__ import annotations

import hashlib
import socket
import ssl
import warnings
from contextlib import contextmanager

import grpc
from certificates import pem
from secret_files import ServerFiles

import polyhead
from polyhead_server.limits import RenewalLimits
from polyhead_server.running import running_server

PATIENCE_S = 20
SOON = RenewalLimits(poll_s=0.02)


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


def trusting(authority, client_certificate=None, **fields):
    if client_certificate is not None:
        fields["certificate_chain"] = pem(client_certificate)
        fields["private_key"] = client_certificate.private_key_pem.bytes()
    return polyhead.TLSConfig(root_certificates=authority.cert_pem.bytes(), **fields)


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
