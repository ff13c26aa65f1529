"""Locust's users of a polyhead server, with polyhead's own client.

    pip install '.[load]'
    locust -f loadtest/locustfile.py --host localhost:50051                      the page: :8089
    locust -f loadtest/locustfile.py --host localhost:50051 --headless -u 16 -t 60s

$POLYHEAD_MIX names the mix, loadtest/mix.toml by default. TLS and token come from the variables of
polyhead's commands: POLYHEAD_CLIENT_TLS_CA, POLYHEAD_TOKEN and so on.
"""

from __future__ import annotations

import argparse
import logging
import os
import random
import sys
import time
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

# This module lets other users run while gRPC waits. Without it a call would stop all users of the
# process. init_gevent must be called before any object of gRPC is made, and after Locust has
# patched the standard library.
import gevent
import grpc.experimental.gevent as grpc_gevent
from calls import make_calls
from locust import LoadTestShape, User, between, events, task
from locust.exception import StopUser
from mix import MixError, read_mix

import polyhead
from polyhead.cli.command import UsageError
from polyhead.cli.shared_arguments import add_server_arguments, client_arguments

if TYPE_CHECKING:
    from calls import Call
    from locust.env import Environment

grpc_gevent.init_gevent()
# gRPC waits for each response in a thread of this pool. With gevent's ten threads the responses of
# all further users would wait for a thread: 900 ms instead of 4 for small calls beside large ones.
gevent.get_hub().threadpool.maxsize = 1000

_log = logging.getLogger("polyhead.load")
try:
    MIX = read_mix(Path(os.environ.get("POLYHEAD_MIX") or Path(__file__).with_name("mix.toml")))
except MixError as error:
    sys.exit(str(error))


class Failure(Exception):  # noqa: N818 - the word of Locust's report
    """The failure of a call, which the report counts by gRPC status and reason."""

    def __init__(self, error: polyhead.PolyheadError) -> None:
        super().__init__(str(error))
        self.kind = f"{error.code} {error.reason}".strip() or type(error).__name__

    def __repr__(self) -> str:
        return self.kind


class Load:
    """The client and the calls of the mix, which all users of a process share."""

    def __init__(self, host: str) -> None:
        """Connect, and list the server's models. Raises PolyheadError and MixError."""
        parser = argparse.ArgumentParser()
        add_server_arguments(parser, timeout_s=MIX.timeout_s)
        self.client = polyhead.Client(
            host,
            timeout=MIX.timeout_s,
            connections=MIX.connections,
            transport=MIX.transport,
            **client_arguments(parser.parse_args(["--server", host])),
        )
        self._calls, left_out = make_calls(MIX, self.client.models())
        self._shares = [call.share for call in self._calls]
        self._random = random.Random(0)  # noqa: S311 - draws calls, no secrets
        self._failures: set[tuple[str, str]] = set()
        for name in left_out:
            _log.warning("left out, because the server has no model for it: %s", name)

    def draw(self) -> Call:
        """Draw the next call, by the shares of the mix."""
        return self._random.choices(self._calls, self._shares)[0]

    def log(self, call: Call, failure: Failure) -> None:
        """Log the server's message once for each kind of failure of a call."""
        if (key := (call.name, failure.kind)) not in self._failures:
            self._failures.add(key)
            _log.warning("%s: %r: %s", call.name, failure, failure)


class Loads:
    """The Load of each environment, which its first user makes; None if that failed."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._by_environment: dict[Environment, Load | None] = {}

    def of(self, environment: Environment, host: str) -> Load:
        """Return the environment's Load. If it cannot be made, ends the run and raises StopUser."""
        with self._lock:
            if environment not in self._by_environment:
                self._by_environment[environment] = self._make(environment, host)
            load = self._by_environment[environment]
        if load is None:
            raise StopUser
        return load

    @staticmethod
    def _make(environment: Environment, host: str) -> Load | None:
        try:
            return Load(host)
        except (polyhead.PolyheadError, MixError, UsageError) as error:
            _log.error("%s", error)
            environment.process_exit_code = 2
            runner, is_alone = environment.runner, environment.web_ui is None
            # later, because Locust reports errors of users that end while it stops them
            gevent.spawn_later(0.1, runner.quit if is_alone else runner.stop)
            return None

    def end(self, environment: Environment) -> None:
        """Close the client, and drop the models, because they may change before the next run."""
        with self._lock:
            if load := self._by_environment.pop(environment, None):
                load.client.close()


LOADS = Loads()


@events.init.add_listener
def begin(**_: object) -> None:
    """Update gevent's clock, which stops during imports: --run-time would begin before them."""
    gevent.get_hub().loop.update_now()


@events.test_stop.add_listener
def end(environment: Environment, **_: object) -> None:
    """Close the client after the users have stopped."""
    LOADS.end(environment)


@events.quitting.add_listener
def set_exit_code(environment: Environment, **_: object) -> None:
    """Let a headless run without calls fail, because it has tested nothing."""
    is_headless = environment.parsed_options is not None and environment.parsed_options.headless
    if is_headless and not environment.stats.total.num_requests:
        environment.process_exit_code = environment.process_exit_code or 2


class PolyheadUser(User):
    """Makes one call of the mix after the other."""

    host = "localhost:50051"
    wait_time = between(*MIX.wait_s)

    @task
    def call(self) -> None:
        """Make a call, and report its time, or its failure."""
        load = LOADS.of(self.environment, self.host)
        call, failure, size = load.draw(), None, 0
        began = time.perf_counter()
        try:
            size = call.send(load.client)
        except polyhead.PolyheadError as error:
            failure = Failure(error)
            load.log(call, failure)
        report: dict[str, Any] = {
            "request_type": call.method,
            "name": call.name,
            "response_time": 1000 * (time.perf_counter() - began),
            "response_length": size,
            "exception": failure,
            "context": {},
        }
        self.environment.events.request.fire(**report)


if MIX.stage:

    class Stages(LoadTestShape):
        """The number of users by the stages of the mix."""

        def tick(self) -> tuple[int, float] | None:
            """Return the number of users, and of starts in a second; None at the end."""
            seconds = self.get_run_time()
            for stage in MIX.stage:
                if seconds < stage.seconds:
                    return stage.users, float(stage.users)
                seconds -= stage.seconds
            return None
