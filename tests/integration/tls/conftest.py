"""An authority, and a server that asks clients for certificates of it."""

from __future__ import annotations

import pytest
import trustme
from tls_server import serve


@pytest.fixture(scope="session")
def authority():
    return trustme.CA()


@pytest.fixture
def mutual(authority, tmp_path):
    """A server that asks for certificates of clients, and the file of their authorities."""
    ca = tmp_path / "ca"
    ca.write_bytes(authority.cert_pem.bytes())
    certificate = authority.issue_cert("localhost")
    with serve(tmp_path / "server", certificate, tls_client_ca=ca) as (server, files):
        yield server, files, ca
