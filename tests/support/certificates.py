"""Certificates that an authority of a test has issued, as PEM."""

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
