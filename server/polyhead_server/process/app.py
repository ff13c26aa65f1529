"""The composition root: builds a server from its settings, starts it and drains it."""

from __future__ import annotations

import asyncio
import logging
import time
from pathlib import Path
from typing import TYPE_CHECKING

from polyhead_models import builtin
from polyhead_server.engine.runtime import Engine
from polyhead_server.process.health import HEALTH_SERVICE_NAME, Health
from polyhead_server.process.logs import quieten_grpc
from polyhead_server.process.metrics.port import MetricsPort
from polyhead_server.process.metrics.snapshot import take_snapshot
from polyhead_server.process.network.connection_shares import ConnectionShares
from polyhead_server.process.network.connections import end_connections, num_connections
from polyhead_server.process.network.crowd_guard import CrowdGuard
from polyhead_server.process.network.grpc_port import GrpcPort
from polyhead_server.process.network.port import (
    address_of,
    socket_path,
)
from polyhead_server.process.network.refused_addresses import RefusedAddresses
from polyhead_server.process.network.reset_guard import ResetGuard
from polyhead_server.process.reflection import Reflection
from polyhead_server.process.resources.cpus import available_cpus
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
    import grpc

    from polyhead_server.process.call_source import CallSource
    from polyhead_server.process.metrics.snapshot import Snapshot
    from polyhead_server.repository.model_loader import ModelChange
    from polyhead_server.repository.source import ModelSource
    from polyhead_server.services.attention.service import ReloadModels
    from polyhead_server.settings import ServerSettings

__all__ = ["App"]

_LOG = logging.getLogger("polyhead.app")
_SERVICE_NAMES = (SERVICE_NAME, INFERENCE_SERVICE_NAME)
_MEMORY_SHARE = 0.75
"""Share of the memory beyond which no more requests may arrive. The rest is for requests that have
arrived."""
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
        call_source: CallSource | None = None,
    ) -> None:
        """``owns_process``: see Engine. ``reload_all``: reloads other workers' models as well.

        ``call_source``: the source of calls; None means a port by the settings.
        """
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
        """Cuts calls while the server runs: overdue ones, and some if memory is short."""
        self._call_source = call_source or GrpcPort(
            settings, self._security, may_raise=owns_process
        )
        self._following: asyncio.Task[None]
        """Renews certificates and tokens while the server runs."""
        self.port = 0
        """The port that the server listens on, once started; 0: on a socket of a path."""
        self._metrics = MetricsPort(self._snapshots, settings.metrics_limits)
        self.metrics_port: int | None = None
        """The port of the metrics, once started; None means no metrics, or the supervisor has the
        port."""

    @property
    def idle_since(self) -> float | None:
        """Monotonic time at which the last request ended; None during requests and before any."""
        return self._scheduler.idle_since

    async def start(self) -> dict[str, object]:
        """Load the models, warm them up, and then listen.

        So clients that call several replicas in turn skip a replica that has just started. Returns
        the fields of the log event "serving". Raises StartupError if the server cannot serve with
        its settings.
        """
        settings = self._settings
        guarded = self._security.guard(self._handlers(), self._observer)
        unknown = UnknownMethods(self._observer)
        handlers = (LimitedHandlers((*guarded, unknown), self._calls),)
        try:
            self._call_source.check()
            await self._loads.load_all()
            self.port = await self._call_source.start(handlers)
            self._cutting.append(asyncio.create_task(self._calls.cut_overdue()))
            if self.port:
                share, most = settings.max_peer_share, self._call_source.max_connections
                refused = RefusedAddresses(self.port)
                self._cutting.append(asyncio.create_task(refused.watch()))
                shares = ConnectionShares(self._calls, self.port, most, share, refused)
                self._cutting.append(asyncio.create_task(shares.watch()))
                if share < 1:  # otherwise all callers have the connections of a proxy in common
                    resets = ResetGuard(self.port, refused)
                    self._calls.on_give_up = resets.note
                    self._cutting.append(asyncio.create_task(resets.watch()))
                    self._cutting.append(asyncio.create_task(self._crowd_guard(refused).watch()))
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

    def _crowd_guard(self, refused: RefusedAddresses) -> CrowdGuard:
        settings, source = self._settings, self._call_source
        share = settings.max_peer_share * source.max_waiting_calls
        return CrowdGuard(
            self.port,
            lambda: source.num_received() - self._calls.num_seen,
            source.max_waiting_calls,
            min_connections=max(1, int(share / settings.max_concurrent_streams)),
            num_unanswered=source.num_unanswered,
            refused=refused,
        )

    @property
    def address(self) -> str:
        """Where the server listens, as clients take it, once started."""
        return address_of(self._settings.host, self.port)

    @property
    def _local(self) -> int | str:
        """The port, or the path of the socket."""
        return self.port or socket_path(self._settings.host) or 0

    def snapshot(self) -> Snapshot:
        """Return the counts and gauges of this server."""
        return take_snapshot(self._observer.counts, self._scheduler, self._repository)

    async def _snapshots(self) -> dict[str, Snapshot]:
        return {"": self.snapshot()}

    def _handlers(self) -> list[grpc.GenericRpcHandler]:
        """Make the handlers of all services."""
        handlers = [service.handler(self._observer) for service in self._services]
        handlers.append(self._health.handler(self._observer))
        if self._settings.reflection:
            services = *_SERVICE_NAMES, HEALTH_SERVICE_NAME
            handlers += Reflection(*services).handlers(self._observer)
        return handlers

    async def reload(self) -> list[ModelChange]:
        """Load the changed models of the repository. Raises the errors of ModelLoads.reload."""
        return await self._loads.reload()

    async def watch(self) -> None:
        """Load changed models of the repository, for ever."""
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
        """Refuse new calls, let others finish, end each connection without calls, and stop gRPC.

        gRPC cancels the calls that arrive after its order to stop and before their client has read
        this order. Clients treat a closed connection as UNAVAILABLE, and most try again.
        """
        give_up_at = time.monotonic() + self._settings.grace_s
        self._calls.refuses_new = True
        while (busy := self._calls.peers()) and time.monotonic() < give_up_at:
            end_connections(self._local, busy)
            await asyncio.sleep(_CLOSE_POLL_S)
        end_connections(self._local, busy)
        await self._stop_server(max(0.0, give_up_at - time.monotonic()))

    async def _stop_server(self, grace_s: float) -> None:
        """Let calls finish for ``grace_s`` seconds, and end the remaining ones."""
        await self._call_source.stop(grace_s)
        for task in self._cutting:
            task.cancel()

    async def _wait_for_connections_to_close(self) -> None:
        # gRPC's stop() returns when the calls have ended, but clients may still be reading their
        # last response. If the process exited now, the kernel would reset these connections: one
        # response of 2 MB in four was lost.
        give_up_at = time.monotonic() + _CLOSE_TIMEOUT_S
        while num_connections(self._local) and time.monotonic() < give_up_at:  # noqa: ASYNC110 - the kernel sets no event
            await asyncio.sleep(_CLOSE_POLL_S)


def _source(settings: ServerSettings) -> ModelSource:
    """Return where the models lie."""
    if isinstance(settings.models, str) and "://" in settings.models:
        return StoreSource(settings.models, settings.cache_folder, settings.fetch_limits)
    return FolderSource(Path(settings.models or builtin.repository()))
