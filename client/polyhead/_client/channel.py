"""Configure a client's channels: target, TLS, message sizes, keepalive, retries, metadata."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address
from numbers import Real
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Literal, TypeAlias, cast, get_args

import grpc

from polyhead._checks import bad_value, checked_positive, checked_switch
from polyhead._client.credentials import add_token, checked_tls, make_credentials
from polyhead._client.target import TLS_SCHEME, checked_target
from polyhead._proxies import needs_no_proxy
from polyhead.wire.protobuf import MAX_MESSAGE_BYTES

if TYPE_CHECKING:
    from polyhead.types import TLSConfig

__all__ = [
    "ChannelConfig",
    "Transport",
    "checked_timeout",
    "is_connected",
    "make_channel_config",
    "open_channel",
]

Transport: TypeAlias = Literal["unary", "stream"]

DEFAULT_TIMEOUT_S = 60.0
"""Timeout of a call if neither the call nor the client sets one."""
MAX_TIMEOUT_S = 365 * 86_400.0
"""Longer timeouts are reduced to a year, because gRPC turns some into deadlines in the past."""

_STATE_TIMEOUT_S = 1.0

_SERVICE_CONFIG = {
    # Use all addresses of the name in turn, instead of the first that answers.
    "loadBalancingConfig": [{"round_robin": {}}],
    "methodConfig": [
        {
            "name": [{"service": "polyhead.v1.AttentionService"}],
            # Calls change nothing on the server, so a retry is safe. A refusal because of load
            # (RESOURCE_EXHAUSTED) is not retried, because retries would add to the load. CANCELLED
            # is retried, because a server that stops cancels the calls that it has received and
            # not yet begun. The attempts take 1.5 s, because a client reconnects to a server that
            # has been restarted within 1 s.
            "retryPolicy": {
                "maxAttempts": 5,
                "initialBackoff": "0.1s",
                "maxBackoff": "1s",
                "backoffMultiplier": 2,
                "retryableStatusCodes": ["UNAVAILABLE", "CANCELLED"],
            },
        },
        # Streams are not retried by gRPC: PendingRequests knows which requests to send again.
        {"name": [{"service": "polyhead.v1.AttentionService", "method": "AttendStream"}]},
    ],
}
# Skip servers that report NOT_SERVING (grpc.health.v1), because they are about to stop.
_HEALTH_CHECKED = {**_SERVICE_CONFIG, "healthCheckConfig": {"serviceName": ""}}
_OPTIONS: tuple[tuple[str, int | str], ...] = (
    ("grpc.max_send_message_length", -1),  # the server has a limit, and its message says more
    ("grpc.max_receive_message_length", -1),
    # Larger requests are not retried by gRPC; the default is 256 KiB.
    ("grpc.per_rpc_retry_buffer_size", MAX_MESSAGE_BYTES),
    ("grpc.keepalive_time_ms", 60_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    # Find a server that starts after its client; by default gRPC waits up to two minutes.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    # Resolve a name again soon when a connection ends, because a server that replaces another has a
    # new address. Within gRPC's default of 30 s a rolling update can replace all servers.
    ("grpc.dns_min_time_between_resolutions_ms", 5_000),
)
# Gives each channel a connection of its own. By default channels to one target share one.
_OWN_CONNECTION = (("grpc.use_local_subchannel_pool", 1),)
_MAX_CONNECTIONS = 1024
_METADATA_KEY = re.compile(r"(?!grpc-)[a-z0-9_.-]+(?<!-bin)")


@dataclass(frozen=True, kw_only=True, slots=True)
class ChannelConfig:
    """The configuration of a client's channels and calls."""

    target: str
    """The target in gRPC's form, with a scheme."""
    options: tuple[tuple[str, int | str], ...]
    """gRPC's channel options."""
    credentials: grpc.ChannelCredentials | None
    """Credentials for TLS; None means plaintext."""
    metadata: tuple[tuple[str, str], ...] = field(repr=False)
    """Metadata sent with every call; the token is among them."""
    timeout_s: float
    """Timeout of a call that sets none."""
    transport: Transport
    """Whether attend is sent as calls of its own or over a stream."""
    connections: int
    """Number of channels, each with these options."""


def make_channel_config(
    target: str,
    *,
    tls: TLSConfig | bool | None,
    timeout: float | None,
    metadata: Mapping[str, str] | None,
    token: str | None = None,
    allow_plaintext_token: bool = False,
    transport: Transport = "unary",
    connections: int = 1,
) -> ChannelConfig:
    """Check a client's arguments. Raises InvalidArgumentError."""
    normalised = checked_target(target)
    tls = checked_tls(tls, is_needed=target.startswith(TLS_SCHEME))
    if str(transport) not in get_args(Transport):  # str(), because it may be an array
        raise bad_value("transport", f"expected 'unary' or 'stream'; got {transport!r}")
    allows_plaintext = checked_switch("allow_plaintext_token", allow_plaintext_token)
    proxy = (("grpc.enable_http_proxy", 0),) if needs_no_proxy(normalised) else ()
    name = tls.server_name if tls else None
    own_name = (("grpc.ssl_target_name_override", name),) if name else ()
    if checked_positive("connections", connections) > _MAX_CONNECTIONS:
        raise bad_value("connections", f"expected at most {_MAX_CONNECTIONS}; got {connections}")
    return ChannelConfig(
        target=normalised,
        options=_OPTIONS
        + _service_config(normalised)
        + proxy
        + own_name
        + (_OWN_CONNECTION if connections > 1 else ()),
        credentials=make_credentials(tls),
        metadata=add_token(
            _checked_metadata({} if metadata is None else metadata),
            token,
            normalised,
            is_encrypted=tls is not None or allows_plaintext,
        ),
        timeout_s=checked_timeout(timeout, DEFAULT_TIMEOUT_S),
        transport=transport,
        connections=connections,
    )


def open_channel(config: ChannelConfig) -> grpc.Channel:
    """Make the channel of a synchronous client."""
    if config.credentials is None:
        return grpc.insecure_channel(config.target, config.options)
    return grpc.secure_channel(config.target, config.credentials, config.options)


def is_connected(channel: grpc.Channel) -> bool:
    """Return whether a synchronous channel has a connection to a peer that speaks gRPC."""
    states: SimpleQueue[grpc.ChannelConnectivity] = SimpleQueue()
    on_state = states.put
    channel.subscribe(on_state)  # the only public way to ask; it reports the present state at once
    try:
        return states.get(timeout=_STATE_TIMEOUT_S) is grpc.ChannelConnectivity.READY
    except Empty:
        return True  # the state is unknown, and most channels are connected
    finally:
        channel.unsubscribe(on_state)


def checked_timeout(timeout: object, default: float) -> float:
    """Return the timeout in seconds. Raises InvalidArgumentError unless it is a positive number.

    0 is refused, because gRPC would take it for no deadline.
    """
    if timeout is None:
        return default
    is_number = isinstance(timeout, Real) and not isinstance(timeout, bool)
    seconds = cast("float", timeout) if is_number else 0.0  # ints and NumPy's numbers as well
    if not 0 < seconds < math.inf:
        raise bad_value("timeout", f"expected seconds above 0, or None; got {timeout!r}")
    return float(min(seconds, MAX_TIMEOUT_S))


def _service_config(target: str) -> tuple[tuple[str, str], ...]:
    """Return the channel option for retries and for the choice of servers.

    A target of one server gets no health check. Its calls go on until the server has stopped,
    because no other server could answer them.
    """
    config = _SERVICE_CONFIG if _is_one_server(target) else _HEALTH_CHECKED
    return (("grpc.service_config", json.dumps(config)),)


def _is_one_server(target: str) -> bool:
    """Return whether a target is one address. A name or a list may stand for several servers."""
    address = target.removeprefix("dns:///").removeprefix("ipv4:").removeprefix("ipv6:")
    host = address.rpartition(":")[0].strip("[]")
    if host == "localhost" or target.startswith("unix"):
        return True
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def _checked_metadata(metadata: object) -> tuple[tuple[str, str], ...]:
    if not isinstance(metadata, Mapping):
        raise bad_value("metadata", f"expected a dict of str; got {metadata!r}")
    for key, value in metadata.items():
        if not (isinstance(key, str) and _METADATA_KEY.fullmatch(key.lower())):
            raise bad_value("metadata", f"{key!r} is not a key of text metadata")
        if not (isinstance(value, str) and value.isascii() and value.isprintable()):
            raise bad_value("metadata", f"the value of {key!r} must be printable ASCII")
    return tuple((key.lower(), value) for key, value in metadata.items())
