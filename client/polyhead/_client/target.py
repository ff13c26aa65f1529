"""Check the address that a client calls, and write it in gRPC's form."""

from __future__ import annotations

import re
from urllib.parse import unquote

from polyhead._checks import bad_value

__all__ = ["TLS_SCHEME", "checked_target"]

TLS_SCHEME = "https://"
_HOST_AND_PORT = re.compile(r"([^\s:/\[\]]+|\[[0-9A-Fa-f:.%]+\]):(?P<port>\d{1,5})")
_ADDRESS_AND_PORT = re.compile(r"([0-9.]+|\[[0-9A-Fa-f:.]+(%[^\]]+)?\]):(?P<port>\d{1,5})")
_NAME = re.compile(
    r"(//[^/\s]*/|/)?([^\s/:\[\]]+|\[[^\s\[\]]+\]|[0-9A-Fa-f:]{2,})(:(?P<port>\d{1,5}))?"
)
"""What follows ``dns:``: perhaps a name server, a host, and perhaps a port."""
_PATH = re.compile(r"(?!//[^/]).+")
"""What follows ``unix:``: two slashes would begin a host."""
_EXAMPLES = {
    "dns:": "dns:///host:50051",
    "ipv4:": "ipv4:10.0.0.1:50051,10.0.0.2:50051",
    "ipv6:": "ipv6:[2001:db8::1]:50051",
    "unix:": "unix:path, or unix:///path from the root folder on",
    "unix-abstract:": "unix-abstract:name",
    "xds:": "xds:///name",
}
"""By scheme: the form of a target."""


def checked_target(target: object) -> str:
    """Return a target in gRPC's form, with a scheme.

    Raises InvalidArgumentError for an address that gRPC cannot read, because gRPC would write lines
    of its own and fail with UNKNOWN.
    """
    if not isinstance(target, str):
        raise bad_value("target", f"expected a str such as 'localhost:50051'; got {target!r}")
    for scheme, example in _EXAMPLES.items():
        if target.startswith(scheme):
            if not _is_complete(scheme, target.removeprefix(scheme)):
                raise bad_value("target", f"expected {example}; got {target!r}")
            return target
    address = target
    if target.startswith(TLS_SCHEME):
        address = target.removeprefix(TLS_SCHEME).removesuffix("/")
    elif "://" in target:
        scheme, _, rest = target.partition("://")
        raise bad_value(
            "target",
            f"leave out {scheme}://, as in {rest!r}; with TLS it may begin with {TLS_SCHEME}",
        )
    match = _HOST_AND_PORT.fullmatch(address)
    if match is None:
        raise bad_value(
            "target",
            "expected host and port, such as 'localhost:50051' or '[::1]:50051', or unix:path; "
            f"got {target!r}",
        )
    if not _is_port(match["port"]):
        raise bad_value("target", f"expected a port from 1 to 65535; got {match['port']}")
    return f"dns:///{address}"


def _is_complete(scheme: str, rest: str) -> bool:
    """Whether gRPC can read what follows a scheme."""
    if scheme == "dns:":
        match = _NAME.fullmatch(rest)
        return match is not None and _is_port(match["port"] or "443")
    if scheme in {"ipv4:", "ipv6:"}:
        addresses = unquote(rest).removeprefix("///").split(",")
        matches = [_ADDRESS_AND_PORT.fullmatch(address) for address in addresses]
        return all(match is not None and _is_port(match["port"]) for match in matches)
    return _PATH.fullmatch(rest) is not None if scheme == "unix:" else bool(rest)


def _is_port(text: str) -> bool:
    return 0 < int(text) < 2**16
