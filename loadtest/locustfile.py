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

# Makes gRPC's waiting yield to other users. Without it a call stops all users of the process. It
# must be called before anything of gRPC is made, and after Locust has patched the standard library.
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
# gRPC waits for each answer in a thread of this pool. With gevent's ten threads the answers to all
# further users would lie there unnoticed: 900 ms in place of 4 for small calls beside large ones.
gevent.get_hub().threadpool.maxsize = 1000

_log = logging.getLogger("polyhead.load")
try:
    MIX = read_mix(Path(os.environ.get("POLYHEAD_MIX") or Path(__file__).with_name("mix.toml")))
except MixError as error:
    sys.exit(str(error))


class Failure(Exception):  # noqa: N818 - the word of Locust's report
    """Why a call failed, as the report counts it: by gRPC status and reason."""

    def __init__(self, error: polyhead.PolyheadError) -> None:
        super().__init__(str(error))
        self.kind = f"{error.code} {error.reason}".strip() or type(error).__name__

    def __repr__(self) -> str:
        return self.kind


class Load:
    """What the users of a process share: the client, and the calls of the mix."""

    def __init__(self, host: str) -> None:
        """Connect, and ask the server which models it has. Raises PolyheadError, MixError."""
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

    def note(self, call: Call, failure: Failure) -> None:
        """Log the server's message, once for each kind of failure of each call."""
        if (key := (call.name, failure.kind)) not in self._failures:
            self._failures.add(key)
            _log.warning("%s: %r: %s", call.name, failure, failure)


class Loads:
    """The Load of each environment, made by its first user; None: it could not be made."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._by_environment: dict[Environment, Load | None] = {}

    def of(self, environment: Environment, host: str) -> Load:
        """Return the environment's Load. Ends the run and raises StopUser if there is none."""
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
            # Later, because Locust complains of users that end while it ends them.
            gevent.spawn_later(0.1, runner.quit if is_alone else runner.stop)
            return None

    def end(self, environment: Environment) -> None:
        """Close the client, and forget the models, which may be others in the next run."""
        with self._lock:
            if load := self._by_environment.pop(environment, None):
                load.client.close()


LOADS = Loads()


@events.init.add_listener
def begin(**_: object) -> None:
    """Set gevent's clock, which stands still during imports: --run-time would begin before them."""
    gevent.get_hub().loop.update_now()


@events.test_stop.add_listener
def end(environment: Environment, **_: object) -> None:
    """Close the client when users have stopped."""
    LOADS.end(environment)


@events.quitting.add_listener
def judge(environment: Environment, **_: object) -> None:
    """Let a run without a page that has made no call fail, because it has shown nothing."""
    is_headless = environment.parsed_options is not None and environment.parsed_options.headless
    if is_headless and not environment.stats.total.num_requests:
        environment.process_exit_code = environment.process_exit_code or 2


class PolyheadUser(User):
    """Makes one call of the mix after the other."""

    host = "localhost:50051"
    wait_time = between(*MIX.wait_s)

    @task
    def call(self) -> None:
        """Make a call, and report how long it took, or why it failed."""
        load = LOADS.of(self.environment, self.host)
        call, failure, size = load.draw(), None, 0
        began = time.perf_counter()
        try:
            size = call.send(load.client)
        except polyhead.PolyheadError as error:
            failure = Failure(error)
            load.note(call, failure)
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
        """As many users as the stages of the mix say."""

        def tick(self) -> tuple[int, float] | None:
            """Return the number of users and how many start a second; None at the end."""
            left_s = self.get_run_time()
            for stage in MIX.stage:
                if left_s < stage.seconds:
                    return stage.users, float(stage.users)
                left_s -= stage.seconds
            return None
