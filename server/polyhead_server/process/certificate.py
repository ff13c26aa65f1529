"""The server's certificate and key, and the authorities of its clients, renewed while it serves.

gRPC asks for the certificate whenever a connection begins (`dynamic_ssl_server_credentials`). So
new connections use a renewed one, and others go on. gRPC itself accepts TLS 1.2 and 1.3 only.
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from hashlib import sha256
from threading import Lock
from typing import TYPE_CHECKING

import grpc

from polyhead_server.auth.files import CredentialsError, read_file

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["ServerCertificate"]


@dataclass(frozen=True, slots=True)
class _Contents:
    """The contents of the files, as PEM."""

    certificate: bytes
    key: bytes
    client_ca: bytes | None


class ServerCertificate:
    """A certificate with its key, and optionally the authorities that must have signed clients'."""

    def __init__(self, certificate: Path, key: Path, client_ca: Path | None) -> None:
        """Raises CredentialsError if the files do not fit together."""
        self._certificate, self._key, self._client_ca = certificate, key, client_ca
        self._lock = Lock()
        """Guards `_renewed`, because gRPC calls _take_renewed from threads of its own."""
        self._renewed: grpc.ServerCertificateConfiguration | None = None
        contents = self._read()
        self._fingerprint = _fingerprint(contents.certificate)
        self.credentials = grpc.dynamic_ssl_server_credentials(
            _configuration(contents),
            self._take_renewed,  # type: ignore[arg-type] # None means no change; the stubs lack it
            # never optional: a client without a certificate must not get in
            require_client_authentication=client_ca is not None,
        )
        """The server credentials of gRPC."""

    def read(self) -> None:
        """Read the files again, for later connections.

        Raises CredentialsError if they do not fit together; the previous ones then stay in use.
        """
        contents = self._read()
        with self._lock:
            self._renewed = _configuration(contents)
        self._fingerprint = _fingerprint(contents.certificate)

    def log_fields(self) -> dict[str, object]:
        """Return the SHA-256 of the certificate in use."""
        return {"certificate_sha256": self._fingerprint}

    def _take_renewed(self) -> grpc.ServerCertificateConfiguration | None:
        with self._lock:
            renewed, self._renewed = self._renewed, None
        return renewed

    def _read(self) -> _Contents:
        """Read the files, and check that they fit together. Raises CredentialsError.

        Python's ssl loads keys from paths only, so the files are read before and after it has.
        """
        contents = self._read_contents()
        self._check_key(contents)
        if contents.client_ca is not None:
            _check_authorities(contents.client_ca, self._client_ca)
        if self._read_contents() != contents:
            raise CredentialsError(
                f"--tls-cert {self._certificate} and --tls-key {self._key} changed while they were "
                "read; try again"
            )
        return contents

    def _read_contents(self) -> _Contents:
        return _Contents(
            read_file("--tls-cert", self._certificate),
            read_file("--tls-key", self._key),
            None if self._client_ca is None else read_file("--tls-client-ca", self._client_ca),
        )

    def _check_key(self, contents: _Contents) -> None:
        if b"ENCRYPTED" in contents.key:
            raise CredentialsError(
                f"--tls-key {self._key} is encrypted; expected a key without a passphrase, such as "
                "`openssl pkey` writes"
            )
        try:
            # an empty passphrase, because OpenSSL would ask for one at the terminal otherwise
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(
                self._certificate, self._key, password=""
            )
            _fingerprint(contents.certificate)  # raises ValueError unless it is plain PEM
        except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
            raise CredentialsError(
                f"--tls-cert {self._certificate} and --tls-key {self._key} do not fit together "
                f"({_reason(error)}); expected PEM files of a certificate and of its private key"
            ) from error


def _check_authorities(pem: bytes, path: Path | None) -> None:
    """Raise CredentialsError unless all of a file's certificates can be read, at least one.

    gRPC itself would take the first ones of a damaged file, and leave the others out.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        context.load_verify_locations(cadata=pem.decode("ascii", errors="replace"))
    except (OSError, ValueError) as error:
        raise CredentialsError(
            f"--tls-client-ca {path} cannot be used ({_reason(error)}); expected a PEM file of the "
            "authorities' certificates"
        ) from error


def _configuration(contents: _Contents) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration(
        [(contents.key, contents.certificate)], root_certificates=contents.client_ca
    )


def _fingerprint(pem: bytes) -> str:
    """Return the SHA-256 of the first certificate, which is the server's."""
    end = "-----END CERTIFICATE-----"
    first = pem.decode("ascii", errors="replace").partition("-----BEGIN CERTIFICATE-----")
    return sha256(ssl.PEM_cert_to_DER_cert(first[1] + first[2].partition(end)[0] + end)).hexdigest()


def _reason(error: Exception) -> str:
    """Return OpenSSL's description of a problem, without its source files and lines."""
    if isinstance(error, ssl.SSLError) and error.reason:
        return error.reason.lower().replace("_", " ")
    return "not PEM" if isinstance(error, ssl.SSLError) else str(error)
