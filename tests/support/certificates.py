"""Certificates of authorities made for a test, in the files that a server and a client read."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import trustme

YESTERDAY = datetime.now(UTC) - timedelta(days=1)


def pem(certificate: trustme.LeafCert) -> bytes:
    """A certificate and those that lead to its authority."""
    return b"".join(part.bytes() for part in certificate.cert_chain_pems)


def expired(authority: trustme.CA, name: str) -> trustme.LeafCert:
    return authority.issue_cert(name, not_before=YESTERDAY - timedelta(days=9), not_after=YESTERDAY)


class ServerFiles:
    """A folder with tls.crt and tls.key, replaced as Kubernetes does: by one renamed link."""

    def __init__(self, folder):
        self._folder, self._number = folder, 0
        self.certificate, self.key = folder / "tls.crt", folder / "tls.key"
        for path in (self.certificate, self.key):
            path.symlink_to(f"..data/{path.name}")

    def put(self, certificate: bytes, key: bytes):
        self._number += 1
        version = self._folder / f"..{self._number}"
        version.mkdir()
        (version / "tls.crt").write_bytes(certificate)
        (version / "tls.key").write_bytes(key)
        link = self._folder / "..new"
        link.symlink_to(version.name)
        link.replace(self._folder / "..data")

    def put_pair(self, certificate: trustme.LeafCert):
        self.put(pem(certificate), certificate.private_key_pem.bytes())
