"""How client and server trust each other: TLS certificates, and the token sent with each call."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

import grpc

from polyhead._checks import bad_value
from polyhead._proxies import is_local

if TYPE_CHECKING:
    from polyhead.types import TLSConfig

TOKEN_VARIABLE = "POLYHEAD_TOKEN"  # noqa: S105 - the name of a variable
_AUTHORIZATION = "authorization"
_TOKEN = re.compile(r"[A-Za-z0-9._~+/-]+=*")
"""What RFC 6750 allows after ``Bearer``."""


def make_credentials(tls: TLSConfig | None) -> grpc.ChannelCredentials | None:
    """Make gRPC's credentials; None: plaintext. Raises InvalidArgumentError."""
    if tls is None:
        return None
    if (tls.private_key is None) != (tls.certificate_chain is None):
        # gRPC would abort the process
        raise bad_value("tls", "expected private_key and certificate_chain together, or neither")
    _check_certificates("root_certificates", tls.root_certificates)
    _check_certificates("certificate_chain", tls.certificate_chain)
    return grpc.ssl_channel_credentials(
        tls.root_certificates, tls.private_key, tls.certificate_chain
    )


def _check_certificates(name: str, pem: bytes | None) -> None:
    """Refuse what holds no certificate, which gRPC reports as if no server answered."""
    if pem is not None and b"-----BEGIN CERTIFICATE-----" not in pem:
        raise bad_value("tls", f"{name} holds no certificate; expected PEM, as bytes")


def add_token(
    metadata: tuple[tuple[str, str], ...],
    token: str | None,
    target: str,
    *,
    is_encrypted: bool,
) -> tuple[tuple[str, str], ...]:
    """Add the token, or else that of the environment, to the metadata of calls.

    The environment's token is left out if the metadata have an authorization of their own.
    ``is_encrypted``: TLS is used, or the caller allows plaintext. Raises InvalidArgumentError.
    """
    name = "token"
    if token is None and not any(key == _AUTHORIZATION for key, _ in metadata):
        name, token = TOKEN_VARIABLE, os.environ.get(TOKEN_VARIABLE)
    if not token:
        return metadata
    if any(key == _AUTHORIZATION for key, _ in metadata):
        raise bad_value(name, "metadata has an authorization as well: give one of the two")
    if not _TOKEN.fullmatch(token):  # it is not quoted, because messages end in logs
        raise bad_value(name, "expected a token as `polyhead token new` prints it, without spaces")
    if not (is_encrypted or is_local(target)):
        raise bad_value(
            name,
            "is not sent in plaintext to another machine, because others could read it: use TLS "
            "(tls=TLSConfig(), --tls), give no token (token='', or unset POLYHEAD_TOKEN), or allow "
            "it for a network that you trust (allow_plaintext_token=True, --allow-plaintext-token)",
        )
    return (*metadata, (_AUTHORIZATION, f"Bearer {token}"))
