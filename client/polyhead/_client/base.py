"""Base classes of Client and AsyncClient: arguments, connections, and errors of gRPC."""

from __future__ import annotations

import asyncio
import time
from contextlib import contextmanager
from itertools import cycle
from typing import TYPE_CHECKING, Any, Generic, TypeVar
from weakref import finalize

import grpc

from polyhead._calls.forward_request import prepare_forward
from polyhead._calls.request import prepare_call, prepare_rows_call
from polyhead._checks import prefix_field_path
from polyhead._client.channel import checked_timeout, make_channel_config
from polyhead._client.trace_context import with_trace_context
from polyhead._proxies import proxy_advice
from polyhead._rpc_errors import from_rpc_error
from polyhead.errors import DeadlineExceededError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from typing import NoReturn

    from polyhead._calls.forward_request import PreparedForward
    from polyhead._calls.request import PreparedCall
    from polyhead._client.channel import ChannelConfig, Transport
    from polyhead._client.trace_context import Metadata
    from polyhead.types import TLSConfig

_Connection = TypeVar("_Connection")


class BaseUnaryTransport:
    """Base class of the transports that send each call as an RPC of its own."""

    def __init__(
        self, target: str, config: ChannelConfig, is_connected: Callable[[], bool]
    ) -> None:
        self._is_connected = is_connected
        self.target = target
        """The server's address, as it was given to the client."""
        self._metadata = config.metadata
        self.is_closed = False

    @property
    def metadata(self) -> Metadata:
        """The metadata of a call: the client's, and the current trace."""
        return with_trace_context(self._metadata)

    @contextmanager
    def translate_errors(self, timeout_s: float) -> Iterator[None]:
        """Turn gRPC's errors into PolyheadErrors."""
        try:
            yield
        except grpc.RpcError as error:
            raise from_rpc_error(
                error,
                target=self.target,
                timeout_s=timeout_s,
                is_connected=self._is_connected,
            ) from error
        except (ValueError, asyncio.CancelledError) as error:
            self._raise_if_closed(error)
            raise

    def _raise_if_closed(self, error: BaseException) -> None:
        """Raise a PolyheadError if the cause of gRPC's error is that the channel is closed."""
        raise NotImplementedError


class BaseClient(Generic[_Connection]):
    """Checks a client's arguments, makes its connections, and uses them in turn."""

    def __init__(
        self,
        target: str,
        *,
        tls: TLSConfig | bool | None = None,
        timeout: float | None = None,
        metadata: Mapping[str, str] | None = None,
        token: str | None = None,
        allow_plaintext_token: bool = False,
        transport: Transport = "unary",
        connections: int = 1,
    ) -> None:
        self._target = target
        self._config = make_channel_config(
            target,
            tls=tls,
            timeout=timeout,
            metadata=metadata,
            token=token,
            allow_plaintext_token=allow_plaintext_token,
            transport=transport,
            connections=connections,
        )
        self._connections: list[_Connection] = []
        self._round_robin: cycle[_Connection]
        self._start()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._target!r})"

    def __reduce__(self) -> NoReturn:
        name = type(self).__name__
        message = f"a connection cannot be pickled or copied: make one {name} in each process"
        raise TypeError(message)

    def _start(self) -> None:
        """Open the connections, if the client does not wait for its first call."""

    def _open(self, connect: Callable[[], _Connection]) -> None:
        """Make the connections. ``connect`` must not refer to the client."""
        self._connections = [connect() for _ in range(self._config.connections)]
        self._round_robin = cycle(self._connections)
        # A client may be dropped without being closed. Its streams' threads and tasks do not refer
        # to it, so they would run on.
        finalize(self, _stop_streams, self._connections)

    @staticmethod
    def _prepare(arguments: dict[str, Any]) -> PreparedCall:
        """Prepare a call from attend's local variables, which are its arguments."""
        del arguments["self"], arguments["timeout"]
        return prepare_call(**arguments)

    @classmethod
    def _prepare_rows(cls, arguments: dict[str, Any]) -> PreparedCall:
        """Prepare a call from attend_rows' local variables, which are its arguments."""
        rows_per_block = arguments.pop("rows_per_block")
        with prefix_field_path("call"):
            call = cls._prepare(arguments)
        return prepare_rows_call(call, rows_per_block)

    @staticmethod
    def _prepare_forward(arguments: dict[str, Any]) -> PreparedForward:
        """Prepare a call from forward's local variables, which are its arguments."""
        del arguments["self"], arguments["timeout"]
        return prepare_forward(**arguments)

    def _timeout_s(self, timeout: float | None) -> float:
        return checked_timeout(timeout, self._config.timeout_s)

    def _seconds_left(self, timeout: float | None) -> Iterator[float]:
        """Yield the seconds left until the timeout; raise DeadlineExceededError when it is over."""
        timeout_s = self._timeout_s(timeout)
        deadline = time.monotonic() + timeout_s
        while (seconds := deadline - time.monotonic()) > 0:
            yield seconds
        raise DeadlineExceededError(
            f"the server at {self._target} was not ready within {timeout_s:g} s: check that it "
            f"runs there (polyhead serve), and its log{proxy_advice(self._target)}"
        )


def _stop_streams(connections: Iterable[Any]) -> None:
    for connection in connections:
        connection.stream.stop()
