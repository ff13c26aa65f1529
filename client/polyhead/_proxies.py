"""Which targets are on this machine or called without a proxy, and advice about proxies.

gRPC uses the first of grpc_proxy, https_proxy and http_proxy that is set, unless no_grpc_proxy, or
else no_proxy, names the target's host.
"""

from __future__ import annotations

import os
import re
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from socket import inet_aton
from urllib.parse import unquote

_PROXIES = ("grpc_proxy", "https_proxy", "http_proxy")
_SCHEME_AND_AUTHORITY = re.compile(r"(?:dns|ipv4|ipv6|xds):(?://[^/]*/|/)?|https://")
_LOOPBACK_NAME = re.compile(
    r"(.+\.)?localhost|localhost[46]?(\.localdomain[46]?)?|ip6-(localhost|loopback)"
)
"""Names that RFC 6761 and the hosts files of Linux distributions give to loopback addresses."""


def needs_no_proxy(target: str) -> bool:
    """Return whether a target must be called directly, because no proxy could reach it.

    Such targets are this machine's sockets and loopback addresses, in any spelling, and lists of
    addresses, because gRPC would ask the proxy for the whole list as if it were one host.
    """
    return is_local(target) or len(_hosts(target)) > 1


def is_local(target: str) -> bool:
    """Return whether a target is on this machine, so that messages stay on the machine."""
    is_socket = target.startswith(("unix:", "unix-abstract:"))
    return is_socket or all(map(_is_loopback, _hosts(target)))


def proxy_advice(target: str) -> str:
    """Return the end of an error message that names the proxy's variable; empty without a proxy."""
    variable = next((name for name in _PROXIES if name in os.environ), "")
    is_used = os.environ.get(variable, "").startswith("http://")  # gRPC ignores all others
    if not is_used or needs_no_proxy(target):
        return ""
    exceptions = "no_grpc_proxy" if "no_grpc_proxy" in os.environ else "no_proxy"
    host = _hosts(target)[0]
    if any(_covers(entry, host) for entry in os.environ.get(exceptions, "").split(",")):
        return ""
    return (
        f"; the call goes through the proxy that the environment variable {variable} names: if "
        f"the server is reached without it, add {host} to {exceptions}"
    )


def _hosts(target: str) -> list[str]:
    path = _SCHEME_AND_AUTHORITY.sub("", target, count=1).partition("?")[0]
    return [_host(address) for address in unquote(path).split(",")]


def _host(address: str) -> str:
    """Return the host of HOST:PORT, [HOST]:PORT or HOST."""
    if address.startswith("["):
        return address[1:].partition("]")[0]
    return address if address.count(":") > 1 else address.partition(":")[0]


def _is_loopback(host: str) -> bool:
    name = host.lower().removesuffix(".")
    if _LOOPBACK_NAME.fullmatch(name):
        return True
    try:
        # inet_aton also reads 127.1 and 0x7f000001, as resolvers do
        address = IPv6Address(name) if ":" in name else IPv4Address(inet_aton(name))
    except (OSError, ValueError):
        return False
    address = getattr(address, "ipv4_mapped", None) or address
    return address.is_loopback or address.is_unspecified  # 0.0.0.0 connects to this machine


def _covers(entry: str, host: str) -> bool:
    """Return whether an entry of no_proxy covers a host, by gRPC's rules."""
    entry = entry.strip().lower()
    if entry and host.lower().endswith(entry):
        return True
    try:
        return "/" in entry and ip_address(host) in ip_network(entry, strict=False)
    except ValueError:
        return False
