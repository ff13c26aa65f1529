"""The server that the environment's settings are for, as in a container: its address, its TLS.

`polyhead serve` reads these variables, so a health check beside it asks the right server.
"""

from __future__ import annotations

import os
import ssl
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING

from polyhead.cli.command import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from polyhead.types import TLSConfig

__all__ = ["own_address", "own_tls"]

_HOST, _PORT, _CERTIFICATE = "POLYHEAD_HOST", "POLYHEAD_PORT", "POLYHEAD_TLS_CERT"
_DEFAULT_PORT = "50051"
_EVERY_INTERFACE = ("", "0.0.0.0", "::", "[::]")  # noqa: S104 - it is not listened on
_SUBJECT_ALT_NAME = b"\x06\x03\x55\x1d\x11"
"""The object identifier that begins the extension with a certificate's names."""
_DNS_NAME, _IP_ADDRESS = 0x82, 0x87
_END = "-----END CERTIFICATE-----"


def own_address(environment: Mapping[str, str] = os.environ) -> str:
    """Return where a server listens that this environment configures."""
    host, port = environment.get(_HOST, ""), environment.get(_PORT, "")
    if host.startswith("unix:"):
        return host
    if host in _EVERY_INTERFACE:
        host = "localhost"
    if not port.isdecimal() or not int(port):  # 0: any free one, which nobody knows
        port = _DEFAULT_PORT
    return f"[{host}]:{port}" if ":" in host and not host.startswith("[") else f"{host}:{port}"


def own_tls(environment: Mapping[str, str] = os.environ) -> TLSConfig | None:
    """Return TLS settings that trust exactly that server's certificate; None without TLS.

    Raises UsageError if the certificate cannot be read.
    """
    path = environment.get(_CERTIFICATE)
    if not path:
        return None
    from polyhead.types import TLSConfig

    try:
        text = Path(path).read_text(encoding="ascii")
        leaf = text[: text.index(_END)] + _END
        der = ssl.PEM_cert_to_DER_cert(leaf[leaf.index("-----BEGIN CERTIFICATE-----") :])
        name = next(_names(der), None)
    except (OSError, ValueError, IndexError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it holds no certificate in PEM"
        raise UsageError(f"{_CERTIFICATE} is {path}, which cannot be read: {reason}") from error
    return TLSConfig(root_certificates=text.encode(), server_name=name)


def _names(der: bytes) -> Iterator[str]:
    """Yield the names of a certificate, in DER; of ``*.example.org`` one that it covers."""
    start = der.find(_SUBJECT_ALT_NAME)
    if start < 0:
        return
    start += len(_SUBJECT_ALT_NAME)
    if der[start] == 0x01:  # whether the extension is critical
        start += 3
    start, _ = _content(der, start)  # the extension's value
    start, end = _content(der, start)  # the list in it
    while start < end:
        kind = der[start]
        start, stop = _content(der, start)
        if kind == _DNS_NAME:
            yield der[start:stop].decode("ascii").replace("*", "health")
        elif kind == _IP_ADDRESS:
            yield str(ip_address(der[start:stop]))
        start = stop


def _content(der: bytes, start: int) -> tuple[int, int]:
    """Return where the content of a DER element begins and ends."""
    length, start = der[start + 1], start + 2
    if length & 0x80:
        num_bytes = length & 0x7F
        length = int.from_bytes(der[start : start + num_bytes], "big")
        start += num_bytes
    return start, start + length
