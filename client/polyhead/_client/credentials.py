"""Credentials of a client: TLS certificates, and the token sent with each call."""

from __future__ import annotations

import os
import re
from os import PathLike
from ssl import PROTOCOL_TLS_CLIENT, SSLContext, SSLError

import grpc

from polyhead._checks import bad_value, checked_text, read_file
from polyhead._proxies import is_local
from polyhead.types import TLSConfig

TOKEN_VARIABLE = "POLYHEAD_TOKEN"  # noqa: S105 - the name of a variable
_CERTIFICATE = "CERTIFICATE"
_AUTHORIZATION = "authorization"
_TOKEN = re.compile(r"[A-Za-z0-9._~+/-]+=*")
"""The tokens that RFC 6750 allows after ``Bearer``."""


def checked_tls(tls: object, *, is_needed: bool) -> TLSConfig | None:
    """Return the configuration of TLS; None for plaintext. Raises InvalidArgumentError.

    ``is_needed``: whether the target requires TLS, as https://host:port does.
    """
    if isinstance(tls, TLSConfig):
        if tls.server_name is not None:
            checked_text("server_name", tls.server_name, "tls")
        return tls
    if tls is True or (tls is None and is_needed):
        return TLSConfig()
    if tls is None or (tls is False and not is_needed):
        return None
    if tls is False:
        raise bad_value(
            "tls", "is False, but the target begins with https://: leave out one of them"
        )
    raise bad_value(
        "tls",
        "expected True for the usual authorities, TLSConfig(root_certificates='ca.pem') for your "
        f"own, or None for plaintext; got {tls!r}",
    )


def make_credentials(tls: TLSConfig | None) -> grpc.ChannelCredentials | None:
    """Make gRPC's credentials; None for plaintext. Raises InvalidArgumentError."""
    if tls is None:
        return None
    if (tls.private_key is None) != (tls.certificate_chain is None):
        # gRPC would abort the process
        raise bad_value("tls", "expected private_key and certificate_chain together, or neither")
    return grpc.ssl_channel_credentials(
        _pem("root_certificates", tls.root_certificates, _CERTIFICATE),
        _pem("private_key", tls.private_key, "PRIVATE KEY"),
        _pem("certificate_chain", tls.certificate_chain, _CERTIFICATE),
    )


def _pem(name: str, value: bytes | str | PathLike[str] | None, kind: str) -> bytes | None:
    """Return PEM; read it from a file if the value is a path.

    Refuses PEM without a block of this kind, because gRPC would report it as if no server answered.
    """
    if value is None:
        return None
    if isinstance(value, str) and "-----BEGIN " in value:
        pem = value.encode(errors="replace")
    elif isinstance(value, (str, PathLike)):
        pem = read_file(name, value, f"tls.{name}")
    elif isinstance(value, bytes):
        pem = value
    else:
        message = f"expected PEM as bytes, or the path of a file; got {value!r}"
        raise bad_value(name, message, f"tls.{name}")
    if f"{kind}-----".encode() not in pem:
        raise bad_value(name, f"holds no {kind.lower()}; expected PEM", f"tls.{name}")
    if kind == _CERTIFICATE:
        try:
            SSLContext(PROTOCOL_TLS_CLIENT).load_verify_locations(
                cadata=pem.decode(errors="replace")
            )
        except (SSLError, ValueError) as error:
            message = f"holds a damaged certificate ({error}); expected PEM"
            raise bad_value(name, message, f"tls.{name}") from error
    return pem


def add_token(
    metadata: tuple[tuple[str, str], ...],
    token: object,
    target: str,
    *,
    is_encrypted: bool,
) -> tuple[tuple[str, str], ...]:
    """Add the token, or else the environment's token, to the metadata of calls.

    The environment's token is not added if the metadata have an authorization of their own.
    ``is_encrypted``: TLS is used, or the caller allows plaintext. Raises InvalidArgumentError.
    """
    name = "token"
    if token is None and not any(key == _AUTHORIZATION for key, _ in metadata):
        name, token = TOKEN_VARIABLE, os.environ.get(TOKEN_VARIABLE)
    if token is not None and not isinstance(token, str):
        raise bad_value(name, f"expected a str; got {type(token).__name__}")
    if not token:
        return metadata
    if any(key == _AUTHORIZATION for key, _ in metadata):
        raise bad_value(name, "metadata has an authorization as well: give one of the two")
    if not _TOKEN.fullmatch(token):  # the message does not quote it, because messages are logged
        raise bad_value(name, "expected a token as `polyhead token new` prints it, without spaces")
    if not (is_encrypted or is_local(target)):
        raise bad_value(
            name,
            "is not sent in plaintext to another machine, because others could read it: use TLS "
            "(tls=True, --tls), give no token (token='', or unset POLYHEAD_TOKEN), or allow "
            "it for a network that you trust (allow_plaintext_token=True, --allow-plaintext-token)",
        )
    return (*metadata, (_AUTHORIZATION, f"Bearer {token}"))
