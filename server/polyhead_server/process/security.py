"""The TLS certificate and the tokens of a server, as its settings name them."""

from __future__ import annotations

import asyncio
import logging
from ipaddress import ip_address
from typing import TYPE_CHECKING, Protocol

from polyhead_server.auth.files import CredentialsError, FileChanges
from polyhead_server.auth.token_file import TokenFile
from polyhead_server.process.certificate import ServerCertificate
from polyhead_server.process.network.port import socket_path
from polyhead_server.rpc.guard import Guard

if TYPE_CHECKING:
    from collections.abc import Sequence

    import grpc

    from polyhead_server.rpc.observer import CallObserver
    from polyhead_server.settings import ServerSettings

__all__ = ["Security"]

_LOG = logging.getLogger("polyhead.security")


class Security:
    """Encrypts a server's port and guards its methods, as far as the settings ask for it."""

    def __init__(self, settings: ServerSettings) -> None:
        """Raises CredentialsError, which is a StartupError, if a file cannot be used."""
        self._poll_s = settings.renewal_limits.poll_s
        self._renewals: list[_Renewal] = []
        self._certificate: ServerCertificate | None = None
        self._tokens: TokenFile | None = None
        if settings.tls_cert is not None and settings.tls_key is not None:
            files = settings.tls_cert, settings.tls_key, settings.tls_client_ca
            changes = FileChanges(filter(None, files))
            self._certificate = ServerCertificate(*files)
            self._renewals.append(_Renewal("certificate", self._certificate, changes))
        if settings.tokens_file is not None:
            changes = FileChanges([settings.tokens_file])
            self._tokens = TokenFile(settings.tokens_file)
            self._renewals.append(_Renewal("tokens", self._tokens, changes))
            if self._certificate is None and not _is_loopback(settings.host):
                _LOG.warning(
                    "tokens arrive in plaintext, which others may read: give --tls-cert and "
                    "--tls-key, unless a proxy on this machine speaks TLS for the server"
                )

    def listen(self, server: grpc.aio.Server, address: str) -> int:
        """Make a server listen, and return the port. Raises RuntimeError if it cannot."""
        if self._certificate is None:
            return server.add_insecure_port(address)
        return server.add_secure_port(address, self._certificate.credentials)

    def guard(
        self, handlers: Sequence[grpc.GenericRpcHandler], observer: CallObserver
    ) -> Sequence[grpc.GenericRpcHandler]:
        """Return the handlers as a server must register them; the observer sees refusals."""
        return handlers if self._tokens is None else (Guard(handlers, self._tokens, observer),)

    async def follow_files(self) -> None:
        """Use changed files, for as long as the task runs."""
        while self._renewals:
            await asyncio.sleep(self._poll_s)
            for renewal in self._renewals:
                try:
                    # in a thread, because a file system may be slow to answer
                    await asyncio.to_thread(renewal.read_if_changed)
                except Exception:  # noqa: BLE001 - nothing would be renewed from now on
                    _LOG.exception("files not looked at")  # no thread could start, for example


class _Readable(Protocol):
    """Credentials that can be read again from their files."""

    def read(self) -> None:
        """Read the files. Raises CredentialsError."""

    def log_fields(self) -> dict[str, object]:
        """Describe the credentials in use, for the log."""


class _Renewal:
    """Reads changed files, and logs each change once."""

    def __init__(self, what: str, files: _Readable, changes: FileChanges) -> None:
        """``changes``: made before the files were read."""
        self._what, self._files, self._changes = what, files, changes
        self._problem = ""
        """Why the last reading failed; it is repeated, because the cause may be elsewhere."""

    def read_if_changed(self) -> None:
        """Read the files if they have changed or could not be read before."""
        have_changed = self._changes.check()
        if not (have_changed or (self._problem and self._changes.is_stable)):
            return
        last_problem, self._problem = self._problem, "unexpected error"
        try:
            self._files.read()
            self._problem = ""
        except CredentialsError as error:
            self._problem = str(error)
        if not self._problem:
            _LOG.info("%s renewed", self._what, extra=self._files.log_fields())
        elif have_changed or self._problem != last_problem:
            fields = self._files.log_fields() | {"reason": self._problem}
            _LOG.error("%s not renewed", self._what, extra=fields)


def _is_loopback(host: str) -> bool:
    if socket_path(host) is not None:
        return True
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"
