"""The settings of replicas: those of `polyhead serve`, but for what Serve's proxy does."""

import pytest

from polyhead_server.errors import StartupError
from polyhead_server.ray.settings import check_arguments, read_settings


def test_arguments_are_read_as_flags_are():
    given = {"threads": 3, "max_request_bytes": "64MiB", "watch": True, "log_level": "error"}
    settings = read_settings(given, {"CPU": 2.0})
    assert (settings.threads, settings.max_request_bytes) == (3, 64 << 20)
    assert (settings.watch, settings.log_level) == (True, "error")


def test_a_replica_uses_the_resources_that_ray_assigned(monkeypatch):
    monkeypatch.delenv("POLYHEAD_THREADS", raising=False)
    settings = read_settings({}, {"CPU": 4.0, "memory": 1 << 30})
    assert (settings.threads, settings.max_memory_bytes) == (4, 1 << 30)
    assert read_settings({}, {"CPU": 0.5}).threads == 1


def test_what_is_no_argument_is_read_from_the_environment(monkeypatch):
    monkeypatch.setenv("POLYHEAD_MAX_QUEUE_SIZE", "77")
    assert read_settings({}, {}).max_queue_size == 77
    assert read_settings({"max_queue_size": 5}, {}).max_queue_size == 5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"port": 1}, "args.port has no meaning in Ray Serve: set grpc_options.port"),
        ({"tls_cert": "x.pem"}, "speaks no TLS"),
        ({"model_control": "explicit"}, "reaches one replica"),
        ({"thread": 1}, "args.thread is no setting"),
        ({"threads": "many"}, "POLYHEAD_THREADS: expected a whole number"),
        ({"threads": -1}, "must be at least 0"),
    ],
)
def test_what_is_refused(arguments, message):
    with pytest.raises(StartupError, match=message):
        check_arguments(arguments)
