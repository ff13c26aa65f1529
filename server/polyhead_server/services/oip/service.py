"""inference.GRPCInferenceService, over the same models and scheduler as AttentionService."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, TypeVar

from polyhead._version import __version__
from polyhead_server.codec.message_format import parse_question
from polyhead_server.codec.parse_limits import check_request_size
from polyhead_server.errors import (
    InvalidRequestError,
    ModelControlError,
    ModelNotFoundError,
    NotReadyError,
    quoted,
)
from polyhead_server.inference import grpc_inference_pb2 as pb
from polyhead_server.planning.plan_cache import PlanCache
from polyhead_server.repository.repository import UnavailableModel
from polyhead_server.rpc.handlers import service_handler
from polyhead_server.scheduling.job import RequestJob
from polyhead_server.services.oip.describe import EXTENSIONS, config_of, metadata_of, statistics_of
from polyhead_server.services.oip.infer_format import INFER
from polyhead_server.services.oip.request import InferPreparer
from polyhead_server.services.oip.stream import InferStream
from polyhead_server.services.oip.to_attend_request import version_of
from polyhead_server.services.oip.whole.request import WholeInferRequest
from polyhead_server.services.stream_shares import StreamShares

if TYPE_CHECKING:
    import asyncio

    import grpc

    from polyhead_server.deadline import Deadline
    from polyhead_server.repository.model_loads import ModelLoads
    from polyhead_server.repository.on_disk import OnDisk
    from polyhead_server.repository.repository import AnyModel, Repository
    from polyhead_server.rpc.call_context import CallContext
    from polyhead_server.rpc.handlers import Connection
    from polyhead_server.rpc.observer import CallObserver
    from polyhead_server.scheduling.memory_budget import Reservation
    from polyhead_server.scheduling.scheduler import Scheduler
    from polyhead_server.services.oip.onnx_request import GraphRequest
    from polyhead_server.services.oip.request import InferRequest
    from polyhead_server.settings import ServerSettings

    _Named = TypeVar("_Named", pb.ModelReadyRequest, pb.ModelMetadataRequest, pb.ModelConfigRequest)

__all__ = ["SERVICE_NAME", "InferenceService"]

SERVICE_NAME = pb.DESCRIPTOR.services_by_name["GRPCInferenceService"].full_name
_READY, _UNAVAILABLE = "READY", "UNAVAILABLE"
_NOT_LATEST = "not loaded: --versions latest serves the newest that can be loaded"
_NOT_YET = "not loaded: it was added after the models were loaded last"


class InferenceService:
    """The methods of the protocol. Each takes a request's bytes and returns a response's."""

    def __init__(
        self,
        repository: Repository,
        scheduler: Scheduler,
        settings: ServerSettings,
        draining: asyncio.Event,
        *,
        loads: ModelLoads,
        on_disk: OnDisk,
    ) -> None:
        """``draining``: set when streams must end after answering the requests they have read."""
        self._repository = repository
        self._scheduler = scheduler
        self._settings = settings
        self._plans = PlanCache(
            INFER, InferPreparer(repository, settings), repository, lambda infer: infer.bound_bytes
        )
        self._draining = draining
        self._stream_shares = StreamShares(settings)
        self._loads = loads
        self._on_disk = on_disk

    def handler(self, observer: CallObserver) -> grpc.GenericRpcHandler:
        """Make the handler that a gRPC server registers."""
        return service_handler(
            SERVICE_NAME,
            {
                "ServerLive": self.server_live,
                "ServerReady": self.server_ready,
                "ModelReady": self.model_ready,
                "ServerMetadata": self.server_metadata,
                "ModelMetadata": self.model_metadata,
                "ModelInfer": self.model_infer,
                "ModelConfig": self.model_config,
                "ModelStatistics": self.model_statistics,
                "RepositoryIndex": self.repository_index,
                "RepositoryModelLoad": self.repository_model_load,
                "RepositoryModelUnload": self.repository_model_unload,
            },
            conversations={"ModelStreamInfer": self.model_stream_infer},
            observer=observer,
        )

    async def server_live(self, data: bytes, _: CallContext) -> bytes:
        """Answer that the server is live."""
        parse_question(pb.ServerLiveRequest, data)
        return pb.ServerLiveResponse(live=True).SerializeToString()

    async def server_ready(self, data: bytes, _: CallContext) -> bytes:
        """Answer whether the models are loaded."""
        parse_question(pb.ServerReadyRequest, data)
        is_ready = self._repository.is_loaded and not self._draining.is_set()
        return pb.ServerReadyResponse(ready=is_ready).SerializeToString()

    async def model_ready(self, data: bytes, _: CallContext) -> bytes:
        """Answer whether a model is loaded."""
        request = parse_question(pb.ModelReadyRequest, data)
        version = version_of(request.version, "version")
        is_ready = False
        with suppress(NotReadyError):
            model = self._repository.find(request.name, version, "name")
            is_ready = not (isinstance(model, UnavailableModel) or self._draining.is_set())
        return pb.ModelReadyResponse(ready=is_ready).SerializeToString()

    async def server_metadata(self, data: bytes, _: CallContext) -> bytes:
        """Describe the server."""
        parse_question(pb.ServerMetadataRequest, data)
        return pb.ServerMetadataResponse(
            name="polyhead", version=__version__, extensions=EXTENSIONS
        ).SerializeToString()

    async def model_metadata(self, data: bytes, _: CallContext) -> bytes:
        """Describe a model."""
        model = self._model(parse_question(pb.ModelMetadataRequest, data))
        versions = [
            other.version for other in self._repository.loaded() if other.name == model.name
        ]
        return metadata_of(model, versions).SerializeToString()

    async def model_config(self, data: bytes, _: CallContext) -> bytes:
        """Describe a model as Triton's configuration does."""
        model = self._model(parse_question(pb.ModelConfigRequest, data))
        return config_of(model).SerializeToString()

    async def model_infer(self, data: bytes, context: CallContext) -> bytes:
        """Run a model on one request."""
        check_request_size(len(data), self._settings.max_request_bytes)
        reservation = context.release_at_end(
            self._scheduler.reserve_bytes(len(data), context.origin)
        )
        match = self._plans.match(data, log_fields=context.log_fields)
        infer = match.value
        request = context.request = infer.request(match)
        if (response := request.run_bound()) is not None:
            reservation.add(len(response))
            return response
        deadline = context.deadline
        if infer.timeout_us:
            deadline = deadline.or_after(infer.timeout_us / 1e6)
        if isinstance(request, WholeInferRequest):
            running = request.run(self._scheduler, deadline, reservation, context)
        else:
            running = self._run(request, deadline, reservation, context)
        if infer.timeout_us:  # gRPC does not know this deadline, so it does not cancel the call
            return await deadline.ends(running)
        return await running

    async def _run(
        self,
        request: InferRequest | GraphRequest,
        deadline: Deadline,
        reservation: Reservation,
        context: CallContext,
    ) -> bytes:
        reservation.grow(request.prepared.response_bytes)
        job: RequestJob[bytes] = RequestJob(request.prepared, request, deadline)
        response = await self._scheduler.run(job, context.origin)
        if not request.prepared.response_bytes:  # it was unknown
            reservation.add(len(response))
        return response

    async def model_stream_infer(self, connection: Connection, context: CallContext) -> None:
        """Run requests as they arrive; answer them in the same order."""
        with self._stream_shares.open(context.origin.peer) as share_bytes:
            stream = InferStream(
                connection, context, self.model_infer, self._settings.stream_limits, share_bytes
            )
            await stream.serve(self._draining)

    async def model_statistics(self, data: bytes, _: CallContext) -> bytes:
        """Return the statistics of models."""
        request = parse_question(pb.ModelStatisticsRequest, data)
        version = version_of(request.version, "version")
        if version and not request.name:
            raise InvalidRequestError("name", "is required with a version", "REQUIRED")
        models = self._repository.loaded()
        if request.name:
            self._repository.find(request.name, version, "name")  # raises if there is none
            models = [
                model
                for model in models
                if model.name == request.name and version in (0, model.version)
            ]
        return pb.ModelStatisticsResponse(
            model_stats=[
                statistics_of(model.name, model.version, model.statistics.totals())
                for model in models
            ]
        ).SerializeToString()

    async def repository_index(self, data: bytes, _: CallContext) -> bytes:
        """List the models of the repository, loaded or not."""
        request = parse_question(pb.RepositoryIndexRequest, data)
        _check_repository(request.repository_name)
        response = pb.RepositoryIndexResponse()
        for model in self._repository.all():
            if not isinstance(model, UnavailableModel):
                response.models.add(
                    name=model.name,
                    version=str(model.version),
                    state=_READY,
                    reason=self._repository.problem(model.name, model.version),
                )
            elif not request.ready:
                response.models.add(
                    name=model.name,
                    version=str(model.version),
                    state=_UNAVAILABLE,
                    reason=model.reason,
                )
        if not request.ready:
            await self._add_not_loaded(response)
        return response.SerializeToString()

    async def _add_not_loaded(self, response: pb.RepositoryIndexResponse) -> None:
        """List the versions in the repository's folder that are not loaded."""
        for name, versions in (await self._on_disk.versions()).items():
            loaded_versions = self._repository.versions(name)
            reason = _NOT_YET
            if loaded_versions and self._settings.versions == "latest":
                reason = _NOT_LATEST
            for version in versions:
                if version not in loaded_versions:
                    response.models.add(
                        name=name, version=str(version), state=_UNAVAILABLE, reason=reason
                    )
        response.models.sort(key=lambda model: (model.name, int(model.version)))

    async def repository_model_load(self, data: bytes, _: CallContext) -> bytes:
        """Load or reload a model."""
        request = parse_question(pb.RepositoryModelLoadRequest, data)
        self._check_control(request.repository_name)
        for name in request.parameters:
            raise InvalidRequestError(
                f"parameters.{name[:80]}",
                "is not supported: a model is loaded from its file in the repository",
                "UNEXPECTED",
            )
        await self._loads.load(request.model_name)
        return pb.RepositoryModelLoadResponse().SerializeToString()

    async def repository_model_unload(self, data: bytes, _: CallContext) -> bytes:
        """Stop serving a model."""
        request = parse_question(pb.RepositoryModelUnloadRequest, data)
        self._check_control(request.repository_name)
        await self._loads.unload(request.model_name)
        return pb.RepositoryModelUnloadResponse().SerializeToString()

    def _check_control(self, repository: str) -> None:
        if self._settings.model_control != "explicit":
            raise ModelControlError
        _check_repository(repository)

    def _model(self, request: _Named) -> AnyModel:
        return self._repository.runnable(
            request.name, version_of(request.version, "version"), "name"
        )


def _check_repository(name: str) -> None:
    if name:
        raise ModelNotFoundError(
            f"no repository {quoted(name)}: this server has one, without a name",
            "REPOSITORY_NOT_FOUND",
        )
