"""Checks the tokens of callers before a call reaches its method."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

import grpc

from polyhead_server.auth.access import roles_that_may_call
from polyhead_server.errors import PermissionDeniedError, RequestError, UnauthenticatedError
from polyhead_server.rpc.caller import set_caller
from polyhead_server.rpc.handlers import refusing_handler

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from polyhead_server.auth.token_file import TokenFile
    from polyhead_server.auth.tokens import Caller
    from polyhead_server.rpc.observer import CallObserver

    Handler: TypeAlias = grpc.RpcMethodHandler[bytes, bytes]

__all__ = ["Guard"]


class Guard(grpc.GenericRpcHandler):
    """The only handler of a server with tokens. It passes admitted calls on to the other handlers.

    It refuses a call before its messages are read. Methods that do not exist need a token as well.
    """

    def __init__(
        self,
        handlers: Sequence[grpc.GenericRpcHandler],
        tokens: TokenFile,
        observer: CallObserver,
    ) -> None:
        self._handlers = handlers
        self._tokens = tokens
        self._observer = observer

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Handler | None:
        """Return the handler of a call, or a refusing handler if the caller may not call it."""
        details = handler_call_details
        handler = self._find(details)
        name = details.method.removeprefix("/")
        if not (allowed_roles := roles_that_may_call(name)):
            return handler
        try:
            caller = self._authenticate(details.invocation_metadata)
            set_caller(caller.name)
            if handler is not None and not allowed_roles & caller.roles:
                raise PermissionDeniedError(min(allowed_roles))
        except RequestError as error:
            return refusing_handler(self._observer, name, error)
        return handler

    def _find(self, details: grpc.HandlerCallDetails) -> Handler | None:
        for handler in self._handlers:
            if (match := handler.service(details)) is not None:
                return match
        return None

    def _authenticate(self, metadata: Iterable[tuple[str, str | bytes]]) -> Caller:
        """Return the caller whose token is in the metadata. Raises UnauthenticatedError."""
        values = [value for key, value in metadata if key == "authorization"]
        if len(values) != 1:  # a proxy may have checked another one of several
            raise UnauthenticatedError.no_token()
        scheme, _, token = str(values[0]).partition(" ")
        if scheme.lower() != "bearer":
            raise UnauthenticatedError.no_token()
        caller = self._tokens.caller_of(token.strip(" "))
        if caller is None:
            raise UnauthenticatedError.wrong_token()
        return caller
