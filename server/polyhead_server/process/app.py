"""The composition root: builds a server from its settings, starts it and drains it."""

from __future__ import annotations

import asyncio
import logging
import time
from pathlib import Path
from typing import TYPE_CHECKING

import grpc

from polyhead_models import builtin
from polyhead_server.engine.runtime import Engine
from polyhead_server.process.connection_shares import ConnectionShares
from polyhead_server.process.connections import end_connections, num_connections
from polyhead_server.process.health import HEALTH_SERVICE_NAME, Health
from polyhead_server.process.logs import quieten_grpc
from polyhead_server.process.metrics.port import MetricsPort
from polyhead_server.process.metrics.snapshot import take_snapshot
from polyhead_server.process.port import (
    address_of,
    cannot_listen,
    check_address,
    socket_path,
)
from polyhead_server.process.reflection import Reflection
from polyhead_server.process.reset_guard import ResetGuard
from polyhead_server.process.resources.cpus import available_cpus
from polyhead_server.process.resources.descriptors import connections_that_fit
from polyhead_server.process.resources.memory_guard import MemoryGuard
from polyhead_server.process.security import Security
from polyhead_server.repository.model_loads import ModelLoads
from polyhead_server.repository.on_disk import OnDisk
from polyhead_server.repository.remote.source import StoreSource
from polyhead_server.repository.repository import Repository
from polyhead_server.repository.source import FolderSource
from polyhead_server.rpc.handlers import UnknownMethods
from polyhead_server.rpc.limited_handlers import LimitedHandlers
from polyhead_server.rpc.observer import CallObserver
from polyhead_server.rpc.open_calls import OpenCalls
from polyhead_server.rpc.tracing import Traces
from polyhead_server.scheduling.scheduler import Scheduler
from polyhead_server.services.attention.service import SERVICE_NAME, AttentionService
from polyhead_server.services.oip.service import SERVICE_NAME as INFERENCE_SERVICE_NAME
from polyhead_server.services.oip.service import InferenceService

if TYPE_CHECKING:
    from polyhead_server.process.metrics.snapshot import Snapshot
    from polyhead_server.repository.model_loader import ModelChange
    from polyhead_server.repository.source import ModelSource
    from polyhead_server.services.attention.service import ReloadModels
    from polyhead_server.settings import ServerSettings

__all__ = ["App"]

_LOG = logging.getLogger("polyhead.app")
_SERVICE_NAMES = (SERVICE_NAME, INFERENCE_SERVICE_NAME)
_INT32_MAX = 2**31 - 1
_MAX_PENDING_CALLS = 2000
"""Calls that wait for Python: a second of small ones."""
_STREAM_MESSAGE_BYTES = 2 << 20
_STREAMED_OVERHEAD_BYTES = 1 << 10
"""Upper bound of what a stream's message adds to the one response that it holds."""
_MAX_METADATA_BYTES = 16 << 10
_MEMORY_SHARE = 0.75
"""Part of the memory from which on no more may arrive; the rest is for what has arrived."""
_NO_COMPRESSION = 1 << grpc.Compression.NoCompression.value
_MAX_POOL_THREADS = 128
"""About how many threads the pools of all models of all workers may have together, because
containers bound the number of threads."""
_CLOSE_TIMEOUT_S, _CLOSE_POLL_S = 5.0, 0.02


class App:
    """One server on one event loop: start it, wait, stop it."""

    def __init__(
        self,
        settings: ServerSettings,
        *,
        owns_process: bool = False,
        reload_all: ReloadModels | None = None,
    ) -> None:
        """``owns_process``: see Engine. ``reload_all``: reloads other workers' models as well."""
        quieten_grpc()
        self._settings = settings
        self._security = Security(settings)
        self._engine = Engine(
            provider=settings.provider,
            provider_options=settings.parsed_provider_options(),
            threads=settings.threads or max(1, available_cpus() // settings.workers),
            spinning=settings.spinning,
            max_scores_bytes=settings.max_scores_bytes,
            max_batch_tokens=settings.max_batch_tokens,
            solo_above_tokens=settings.solo_above_tokens,
            owns_process=owns_process,
            max_pool_threads=_MAX_POOL_THREADS // settings.workers,
        )
        self._health = Health(
            *_SERVICE_NAMES, serves_all_models=lambda: not self._repository.has_problems
        )
        self._repository = Repository(on_change=self._health.note_models)
        source = _source(settings)
        self._loads = ModelLoads(
            self._repository,
            source,
            self._engine,
            settings.load_limits,
            all_versions=settings.versions == "all",
        )
        self._scheduler = Scheduler(
            settings.max_concurrent_runs,
            settings.max_queue_size,
            settings.max_queue_bytes,
            settings.max_queue_delay_ms / 1000,
            max_peer_share=settings.max_peer_share,
        )
        self._draining = asyncio.Event()
        """Set when draining begins; streams then end."""
        parts = self._repository, self._scheduler, settings, self._draining
        self._services = (
            AttentionService(
                *parts,
                reload_models=None
                if settings.model_control == "none"
                else reload_all or self.reload,
            ),
            InferenceService(*parts, loads=self._loads, on_disk=OnDisk(source)),
        )
        self._traces = Traces() if settings.tracing else None
        self._observer = CallObserver(
            log_sample=settings.access_log_sample,
            log_limits=settings.log_limits,
            tracer=self._traces.tracer if self._traces else None,
        )
        self._calls = OpenCalls(settings.peer_limits)
        self._cutting: list[asyncio.Task[None]] = []
        """What cuts calls while the server runs: overdue ones, and some if memory is short."""
        self._max_connections = connections_that_fit(
            settings.max_connections, may_raise=owns_process
        )
        if self._max_connections < settings.max_connections:
            extra = {"connections": self._max_connections, "wanted": settings.max_connections}
            _LOG.warning(
                "few descriptors: raise ulimit -n, or lower --max-connections", extra=extra
            )
        self._server = grpc.aio.server(options=_options(settings, self._max_connections))
        self._following: asyncio.Task[None]
        """Renews certificates and tokens while the server runs."""
        self.port = 0
        """The port that the server listens on, once started; 0: on a socket of a path."""
        self._metrics = MetricsPort(self._snapshots, settings.metrics_limits)
        self.metrics_port: int | None = None
        """The port of the metrics, once started; None: there is none, or the supervisor has it."""

    @property
    def idle_since(self) -> float | None:
        """Monotonic time at which the last request ended; None during requests and before any."""
        return self._scheduler.idle_since

    async def start(self) -> dict[str, object]:
        """Load the models and warm them up, and only then listen.

        So clients that go round several replicas leave out one that has just started.

        Returns the fields of the log event "serving". Raises StartupError if the server cannot
        serve with its settings.
        """
        settings = self._settings
        guarded = self._security.guard(self._handlers(), self._observer)
        handlers = LimitedHandlers(guarded, self._calls)
        self._server.add_generic_rpc_handlers((handlers, UnknownMethods(self._observer)))
        try:
            if settings.workers == 1:  # otherwise the supervisor has it
                check_address(settings.host, settings.port)
            await self._loads.load_all()
            self.port = self._listen()
            await self._server.start()
            self._cutting.append(asyncio.create_task(self._calls.cut_overdue()))
            if self.port:
                share, most = settings.max_peer_share, self._max_connections
                shares = ConnectionShares(self._calls, self.port, most, share)
                self._cutting.append(asyncio.create_task(shares.watch()))
                self._calls.on_give_up = ResetGuard(self.port).note
            if settings.max_memory_bytes:
                guard = MemoryGuard(self._calls, int(settings.max_memory_bytes * _MEMORY_SHARE))
                self._cutting.append(asyncio.create_task(guard.watch()))
            if settings.metrics_port is not None and settings.workers == 1:
                host = settings.metrics_host
                self.metrics_port = await self._metrics.start(host, settings.metrics_port)
        except BaseException:  # a StartupError, or a signal before there is anything to drain
            self._metrics.close()
            await self._stop_server(grace_s=0)
            _LOG.info("stopped before it served")
            raise
        self._following = asyncio.create_task(self._security.follow_files())
        self._health.report(is_serving=True)
        models = self._repository.loaded()
        fields: dict[str, object] = {
            "address": self.address,
            "models": len(models),
            "provider": models[0].providers[0],
            "threads": self._engine.threads,
        }
        if self.metrics_port is not None:
            fields["metrics"] = address_of(settings.metrics_host, self.metrics_port)
        return fields

    @property
    def address(self) -> str:
        """Where the server listens, as clients take it, once started."""
        return address_of(self._settings.host, self.port)

    @property
    def _local(self) -> int | str:
        """The port, or the path of the socket."""
        return self.port or socket_path(self._settings.host) or 0

    def snapshot(self) -> Snapshot:
        """Return what this server counts and holds now."""
        return take_snapshot(self._observer.counts, self._scheduler, self._repository)

    async def _snapshots(self) -> dict[str, Snapshot]:
        return {"": self.snapshot()}

    def _handlers(self) -> list[grpc.GenericRpcHandler]:
        """Make the handlers of all services."""
        handlers = [service.handler(self._observer) for service in self._services]
        handlers.append(self._health.handler(self._observer))
        if self._settings.reflection:
            services = *_SERVICE_NAMES, HEALTH_SERVICE_NAME
            handlers.append(Reflection(*services).handler(self._observer))
        return handlers

    async def reload(self) -> list[ModelChange]:
        """Load what has changed in the repository. Raises what ModelLoads.reload raises."""
        return await self._loads.reload()

    async def watch(self) -> None:
        """Load what changes in the repository, for ever."""
        await self._loads.watch()

    async def drain(self) -> None:
        """Report NOT_SERVING, give load balancers time to notice, let calls finish, and stop."""
        _LOG.info("draining", extra={"grace_s": self._settings.grace_s})
        self._health.report(is_serving=False)
        await asyncio.sleep(self._settings.drain_delay_s)
        self._health.end_watches()
        self._draining.set()
        await self._finish_calls()
        self._following.cancel()
        await self._wait_for_connections_to_close()
        await asyncio.to_thread(self._scheduler.close)
        self._metrics.close()
        self._observer.log.flush()
        if self._traces:
            await asyncio.to_thread(self._traces.close, _CLOSE_TIMEOUT_S)
        _LOG.info("stopped")

    async def _finish_calls(self) -> None:
        """Refuse new calls, let others finish, end each connection that has none, and stop gRPC.

        gRPC cancels the calls that arrive after its order to stop and before their client has read
        of it. Clients take a closed connection for what it is, UNAVAILABLE, and most try again.
        """
        give_up_at = time.monotonic() + self._settings.grace_s
        self._calls.refuses_new = True
        while (busy := self._calls.peers()) and time.monotonic() < give_up_at:
            end_connections(self._local, busy)
            await asyncio.sleep(_CLOSE_POLL_S)
        end_connections(self._local, busy)
        await self._stop_server(max(0.0, give_up_at - time.monotonic()))

    async def _stop_server(self, grace_s: float) -> None:
        """Let calls finish for so many seconds, and end those that are left."""
        await self._server.stop(grace_s or None)
        for task in self._cutting:
            task.cancel()

    async def _wait_for_connections_to_close(self) -> None:
        # gRPC's stop() returns when the calls have ended, but clients may still be reading their
        # last response. If the process exited now, the kernel would reset these connections: one
        # response of 2 MB in four was lost.
        give_up_at = time.monotonic() + _CLOSE_TIMEOUT_S
        while num_connections(self._local) and time.monotonic() < give_up_at:  # noqa: ASYNC110 - the kernel sets no event
            await asyncio.sleep(_CLOSE_POLL_S)

    def _listen(self) -> int:
        host, port = self._settings.host, self._settings.port
        try:
            bound = self._security.listen(self._server, address_of(host, port))
        except RuntimeError as error:
            raise cannot_listen(host, port, error) from error
        return bound if socket_path(host) is None else 0


def _source(settings: ServerSettings) -> ModelSource:
    """Return where the models lie."""
    if isinstance(settings.models, str) and "://" in settings.models:
        return StoreSource(settings.models, settings.cache_folder, settings.fetch_limits)
    return FolderSource(Path(settings.models or builtin.repository()))


def _max_received_bytes(settings: ServerSettings) -> int:
    # a message of a stream holds up to a megabyte of requests, even if each must be smaller
    return min(max(2 * settings.max_request_bytes, _STREAM_MESSAGE_BYTES), _INT32_MAX)


def _max_sent_bytes(settings: ServerSettings) -> int:
    # each response is checked against its limit before it runs; a stream's message joins several
    answer = settings.max_response_bytes + _STREAMED_OVERHEAD_BYTES
    return min(max(answer, _STREAM_MESSAGE_BYTES), _INT32_MAX)


def _options(settings: ServerSettings, max_connections: int) -> list[tuple[str, int]]:
    return [
        # gRPC refuses a message over its limit before our code sees it, with an error that does not
        # name the flag. So gRPC's limit is twice ours, and the services refuse what lies between
        # with an error that names the flag.
        ("grpc.max_receive_message_length", _max_received_bytes(settings)),
        ("grpc.max_send_message_length", _max_sent_bytes(settings)),
        # Between the two, gRPC answers some calls and refuses others, at random.
        ("grpc.max_metadata_size", _MAX_METADATA_BYTES),
        ("grpc.absolute_max_metadata_size", _MAX_METADATA_BYTES),
        # A client that opens and resets streams as fast as it can, or that opens them and sends
        # nothing, is bounded by the streams of a connection, and by ResetGuard.
        ("grpc.max_concurrent_streams", settings.max_concurrent_streams),
        ("grpc.http.overload_protection", 0),  # see ResetGuard
        ("grpc.max_allowed_incoming_connections", max_connections),
        # A refusal by Python costs nearly half of a small answer, so under five times the load that
        # it answers a server would do nothing else. When so many calls wait for Python, gRPC drops
        # further ones by itself, which costs a tenth of that: CANCELLED, without a reason. One
        # connection never has as many, because of its limit of streams.
        ("grpc.server.max_pending_requests", _MAX_PENDING_CALLS),
        ("grpc.server.max_pending_requests_hard_limit", _MAX_PENDING_CALLS),
        # A bomb of 260 kB is 256 MB of zeros. gRPC bounds no ratio, so it refuses compression
        # (UNIMPLEMENTED), which takes more time than it saves: floats hardly get smaller.
        ("grpc.compression_enabled_algorithms_bitset", _NO_COMPRESSION),
        # Only workers share a port. A second server on it is a mistake, so it must fail to start
        # instead of silently taking half of the calls.
        ("grpc.so_reuseport", int(settings.workers > 1)),
        # connections that never complete the handshake are closed, so they cannot delay draining
        ("grpc.server_handshake_timeout_ms", 5_000),
        # connections are renewed so that load balancers reach servers that were added later; a
        # stream of rows may finish on the old connection, however slowly it is read
        ("grpc.max_connection_age_ms", 300_000),
        ("grpc.max_connection_age_grace_ms", 3_600_000),
        ("grpc.keepalive_time_ms", 60_000),
        ("grpc.keepalive_timeout_ms", 20_000),
        ("grpc.keepalive_permit_without_calls", 1),
        # Balancers notice by pings that a server hangs. More than one a second end a connection.
        ("grpc.http2.min_ping_interval_without_data_ms", 1_000),
    ]
