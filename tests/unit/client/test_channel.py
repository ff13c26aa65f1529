"""The arguments of a client are checked before it makes a channel."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from polyhead import InvalidArgumentError, TLSConfig
from polyhead._client.channel import checked_timeout, make_channel_config


def configure(target="localhost:50051", *, tls=None, timeout=None, metadata=None, **more):
    return make_channel_config(target, tls=tls, timeout=timeout, metadata=metadata, **more)


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("localhost:50051", "dns:///localhost:50051"),
        ("127.0.0.1:1", "dns:///127.0.0.1:1"),
        ("[::1]:65535", "dns:///[::1]:65535"),
        ("my-host.example.com:443", "dns:///my-host.example.com:443"),
        ("unix:/run/polyhead.sock", "unix:/run/polyhead.sock"),
        ("unix:///run/polyhead.sock", "unix:///run/polyhead.sock"),
        ("unix-abstract:polyhead", "unix-abstract:polyhead"),
        ("dns:///host:1", "dns:///host:1"),
        ("dns:host", "dns:host"),
        ("dns://8.8.8.8/host:1", "dns://8.8.8.8/host:1"),
        ("ipv4:10.0.0.1:1,10.0.0.2:1", "ipv4:10.0.0.1:1,10.0.0.2:1"),
        ("ipv6:[::1]:1,[::2]:1", "ipv6:[::1]:1,[::2]:1"),
        ("ipv6:///[::1]:1", "ipv6:///[::1]:1"),
    ],
)
def test_targets(target, expected):
    assert configure(target).target == expected


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("localhost", r"expected host and port, such as 'localhost:50051'.*got 'localhost'"),
        ("", "got ''"),
        (":50051", "got ':50051'"),
        ("::1:50051", r"'\[::1\]:50051'"),
        ("host:port", "got 'host:port'"),
        (" host:1", "got ' host:1'"),
        ("host:1/path", "got 'host:1/path'"),
        ("host:0", "port from 1 to 65535; got 0"),
        ("host:65536", "port from 1 to 65535; got 65536"),
        ("http://host:1", "leave out http://"),
        ("grpc://host:1", "leave out grpc://"),
        ("unix://polyhead.sock", "expected unix:path, or unix:///path from the root folder on"),
        ("unix:", "expected unix:path"),
        ("unix-abstract:", "expected unix-abstract:name"),
        ("dns:", "expected dns:///host:50051; got 'dns:'"),
        ("dns:///", "expected dns:///host:50051"),
        ("dns:///host:70000", "expected dns:///host:50051"),
        ("ipv4:10.0.0.1", "expected ipv4:10.0.0.1:50051,10.0.0.2:50051"),
        ("ipv4:10.0.0.1:1,", "expected ipv4:10.0.0.1:50051"),
        ("ipv6:::1:1", r"expected ipv6:\[2001:db8::1\]:50051"),
        (50051, "expected a str"),
    ],
)
def test_invalid_targets(target, message):
    with pytest.raises(InvalidArgumentError, match=message) as caught:
        configure(target)
    assert list(caught.value.fields) == ["target"]


@pytest.mark.parametrize(
    ("target", "is_checked"),
    [
        ("localhost:50051", False),
        ("127.0.0.1:1", False),
        ("[::1]:65535", False),
        ("unix:/run/polyhead.sock", False),
        ("ipv4:10.0.0.1:1", False),
        ("host:1", True),
        ("dns:///host:1", True),
        ("ipv4:10.0.0.1:1,10.0.0.2:1", True),
    ],
)
def test_the_health_of_servers_is_checked_where_there_may_be_several(target, is_checked):
    config = json.loads(dict(configure(target).options)["grpc.service_config"])
    assert ("healthCheckConfig" in config) == is_checked


def test_channel_options_set_message_sizes_and_retries():
    options = dict(configure("host:1").options)
    assert options["grpc.max_send_message_length"] == -1
    assert options["grpc.max_receive_message_length"] == -1
    assert options["grpc.per_rpc_retry_buffer_size"] == 2**31 - 1
    assert options["grpc.dns_min_time_between_resolutions_ms"] == 5_000
    calls, stream = json.loads(options["grpc.service_config"])["methodConfig"]
    assert calls["retryPolicy"]["retryableStatusCodes"] == ["UNAVAILABLE", "CANCELLED"]
    assert stream["name"][0]["method"] == "AttendStream"
    assert "retryPolicy" not in stream  # the client itself resends the requests of streams


def test_channels_do_not_share_a_connection():
    options = dict(configure(connections=2).options)
    assert options["grpc.use_local_subchannel_pool"] == 1
    assert "grpc.use_local_subchannel_pool" not in dict(configure().options)


@pytest.mark.parametrize("connections", [0, -1, True, 1.0, "2", None])
def test_invalid_numbers_of_connections(connections):
    with pytest.raises(InvalidArgumentError, match="connections: expected a whole number from 1"):
        configure(connections=connections)


@pytest.mark.parametrize("transport", ["", "streams", None, []])
def test_invalid_transports(transport):
    with pytest.raises(InvalidArgumentError, match="transport: expected 'unary' or 'stream'"):
        configure(transport=transport)


@pytest.mark.parametrize(
    "target",
    [
        "localhost:1",
        "LOCALHOST.:1",
        "a.localhost:1",
        "localhost.localdomain:1",
        "localhost6:1",
        "ip6-loopback:1",
        "127.8.0.1:1",
        "127.1:1",
        "0x7f000001:1",
        "0.0.0.0:1",
        "[::1]:1",
        "[::]:1",
        "[::ffff:127.0.0.1]:1",
        "ipv6:%5B::1%5D:1",
        "ipv6:[::1%25lo]:1",
        "dns:localhost",
        "dns:::1",
        "dns://192.0.2.1:53/localhost:1",
        "ipv4:192.0.2.1:1,192.0.2.2:1",
        "unix:path",
        "unix-abstract:name",
    ],
)
def test_targets_that_no_proxy_reaches_are_called_directly(target):
    assert dict(configure(target).options)["grpc.enable_http_proxy"] == 0


@pytest.mark.parametrize(
    "target",
    [
        "host:1",
        "localhost.example.com:1",
        "mylocalhost:1",
        "127.example.com:1",
        "10.127.0.1:1",
        "[2001:db8::1]:1",
        "[::ffff:10.0.0.1]:1",
        "dns://127.0.0.1:53/host:1",
        "xds:///service",
    ],
)
def test_other_targets_use_the_proxy_of_the_environment(target):
    assert "grpc.enable_http_proxy" not in dict(configure(target).options)


def test_plaintext_is_the_default():
    assert configure().credentials is None
    assert configure(tls=TLSConfig()).credentials is not None


@pytest.mark.parametrize("half", [{"private_key": b"k"}, {"certificate_chain": b"c"}])
def test_a_client_certificate_needs_its_key(half):
    with pytest.raises(InvalidArgumentError, match="private_key and certificate_chain together"):
        configure(tls=TLSConfig(**half))


def test_timeouts():
    assert configure().timeout_s == 60
    assert configure(timeout=2).timeout_s == 2
    assert checked_timeout(None, 7.0) == 7
    assert checked_timeout(0.001, 7.0) == 0.001
    assert checked_timeout(np.int64(3), 7.0) == 3
    assert checked_timeout(np.float32(2), 7.0) == 2


@pytest.mark.parametrize("timeout", [5e9, 1e300, 10**400])
def test_timeouts_are_limited_to_a_year(timeout):
    assert checked_timeout(timeout, 7.0) == 365 * 86_400


@pytest.mark.parametrize("timeout", [0, -1, 0.0, math.inf, math.nan, True, "5"])
def test_invalid_timeouts(timeout):
    with pytest.raises(InvalidArgumentError, match="timeout: expected seconds above 0"):
        checked_timeout(timeout, 7.0)
    with pytest.raises(InvalidArgumentError, match="timeout"):
        configure(timeout=timeout)


def test_metadata_is_sent_in_lower_case():
    assert configure(metadata={"Authorization": "Bearer x"}).metadata == (
        ("authorization", "Bearer x"),
    )


@pytest.mark.parametrize(
    "metadata", [{"a b": "x"}, {"": "x"}, {"grpc-x": "x"}, {"x-bin": "x"}, {"x": "ü"}, {"x": "a\n"}]
)
def test_invalid_metadata(metadata):
    with pytest.raises(InvalidArgumentError, match="metadata"):
        configure(metadata=metadata)
