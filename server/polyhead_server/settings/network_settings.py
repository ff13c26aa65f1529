"""Settings of the network: address, TLS and tokens."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path  # noqa: TC003 - get_type_hints needs it
from typing import Annotated

from polyhead_server.errors import StartupError
from polyhead_server.settings.option import Option

__all__ = ["NetworkSettings"]


@dataclass(frozen=True, kw_only=True)
class NetworkSettings:
    """Where the server listens, and whom it lets in."""

    host: Annotated[
        str,
        Option(
            "address to listen on; 0.0.0.0: every interface; unix:PATH: a socket of this machine, "
            "without a port, for one worker"
        ),
    ] = "127.0.0.1"
    port: Annotated[
        int, Option("port to listen on; 0: any free one", at_least=0, at_most=65535)
    ] = 50051
    tls_cert: Annotated[
        Path | None,
        Option(
            "PEM file of the server's certificate and those that lead to its authority: the port "
            "then speaks TLS 1.2 or 1.3; renewed while serving when the file changes"
        ),
    ] = None
    tls_key: Annotated[Path | None, Option("PEM file of the certificate's private key")] = None
    tls_client_ca: Annotated[
        Path | None,
        Option(
            "PEM file of authorities: every client must then show a certificate that one of them "
            "has signed"
        ),
    ] = None
    tokens_file: Annotated[
        Path | None,
        Option(
            "file of lines that `polyhead token new` prints: every call but health checks then "
            "needs a token, and reflection and model control one with the role admin; read again "
            "when it changes"
        ),
    ] = None

    def check_tls(self) -> None:
        """Raise StartupError for files of TLS that need others."""
        if (self.tls_cert is None) != (self.tls_key is None):
            raise StartupError("--tls-cert and --tls-key belong together: give both, or neither")
        if self.tls_client_ca is not None and self.tls_cert is None:
            raise StartupError(
                "--tls-client-ca needs --tls-cert and --tls-key: without them the port speaks no "
                "TLS, and no client shows a certificate"
            )
