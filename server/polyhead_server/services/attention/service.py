"""polyhead.v1.AttentionService: recognise a request, run it, respond."""

from __future__ import annotations

from typing import TYPE_CHECKING

from polyhead.v1 import attention_pb2 as pb
from polyhead_server.codec.forward import ForwardRequest, read_forward_call
from polyhead_server.codec.message_format import ATTEND, ATTEND_ROWS, STREAMED, parse_question
from polyhead_server.codec.parse_limits import check_request_size
from polyhead_server.codec.request import AttendRequest, AttendRowsRequest
from polyhead_server.engine.onnx_model import OnnxModel
from polyhead_server.errors import ModelControlError
from polyhead_server.planning.plan_cache import PlanCache
from polyhead_server.rpc.handlers import service_handler
from polyhead_server.scheduling.forward_job import ForwardJob, run_forward
from polyhead_server.scheduling.job import RequestJob
from polyhead_server.scheduling.rows_job import RowsJob
from polyhead_server.services.attention.describe import (
    describe_change,
    describe_model,
    describe_server,
)
from polyhead_server.services.attention.prepare import CallPreparer
from polyhead_server.services.attention.refusals import RefusalPace
from polyhead_server.services.attention.stream import RequestStream
from polyhead_server.services.stream_shares import StreamShares

if TYPE_CHECKING:
    import asyncio
    from collections.abc import AsyncGenerator, Awaitable, Callable

    import grpc

    from polyhead_server.repository.model_loader import ModelChange
    from polyhead_server.repository.repository import Repository
    from polyhead_server.rpc.call_context import CallContext
    from polyhead_server.rpc.handlers import Connection
    from polyhead_server.rpc.observer import CallObserver
    from polyhead_server.scheduling.scheduler import Scheduler
    from polyhead_server.settings import ServerSettings

    ReloadModels = Callable[[], Awaitable[list[ModelChange]]]

__all__ = ["SERVICE_NAME", "AttentionService"]

SERVICE_NAME = pb.DESCRIPTOR.services_by_name["AttentionService"].full_name


class AttentionService:
    """The methods of the contract, each from a request's bytes to a response's."""

    def __init__(
        self,
        repository: Repository,
        scheduler: Scheduler,
        settings: ServerSettings,
        draining: asyncio.Event,
        reload_models: ReloadModels | None = None,
    ) -> None:
        """``draining``: set when streams must end after answering the requests they have read.

        ``reload_models``: reloads the models; None means that callers may not reload them.
        """
        self._repository = repository
        self._scheduler = scheduler
        self._settings = settings
        self._draining = draining
        self._reload_models = reload_models
        preparer = CallPreparer(repository, settings)
        self._attend_plans = PlanCache(
            ATTEND, preparer.attend, repository, lambda prepared: prepared.bound_bytes
        )
        self._rows_plans = PlanCache(ATTEND_ROWS, preparer.attend_rows, repository)
        self._stream_plans = PlanCache(STREAMED, preparer.streamed, repository)
        self._stream_shares = StreamShares(settings)
        self._refusal_pace = RefusalPace()

    def handler(self, observer: CallObserver) -> grpc.GenericRpcHandler:
        """Make the handler that a gRPC server registers."""
        return service_handler(
            SERVICE_NAME,
            {
                "Attend": self.attend,
                "Forward": self.forward,
                "ListModels": self.list_models,
                "GetModel": self.get_model,
                "GetServerInfo": self.get_server_info,
                "ReloadModels": self.reload_models,
            },
            {"AttendRows": self.attend_rows},
            {"AttendStream": self.attend_stream},
            observer=observer,
        )

    async def attend(self, data: bytes, context: CallContext) -> bytes:
        """Run one attention block on one request."""
        check_request_size(len(data), self._settings.max_request_bytes)
        reservation = context.release_at_end(
            self._scheduler.reserve_bytes(len(data), context.origin)
        )
        match = self._attend_plans.match(data, log_fields=context.log_fields)
        reservation.grow(match.value.response_bytes)
        request = context.request = AttendRequest(match, match.value.call)
        if (response := match.value.run_bound(request)) is not None:
            return response
        job = RequestJob(match.value, request, context.deadline)
        return await self._scheduler.run(job, context.origin)

    async def forward(self, data: bytes, context: CallContext) -> bytes:
        """Run a whole model on one request."""
        check_request_size(len(data), self._settings.max_request_bytes)
        reservation = context.release_at_end(
            self._scheduler.reserve_bytes(len(data), context.origin)
        )
        call = read_forward_call(data)
        request = context.request = ForwardRequest(call)
        model = self._repository.whole(call.model, call.model_version)
        job = ForwardJob(model, request, self._settings, context.deadline)
        return await run_forward(job, self._scheduler, reservation, context.origin)

    async def attend_rows(self, data: bytes, context: CallContext) -> AsyncGenerator[bytes, None]:
        """Run one attention block on one request, in blocks of query rows."""
        check_request_size(len(data), self._settings.max_request_bytes)
        reservation = context.release_at_end(
            self._scheduler.reserve_bytes(len(data), context.origin)
        )
        match = self._rows_plans.match(data, log_fields=context.log_fields)
        model, plan = match.value
        request = context.request = AttendRowsRequest(match, plan.call_plan.call)
        reservation.grow(plan.held_bytes)
        rows = RowsJob(model, plan, request, context.deadline)
        while rows.has_more:
            yield await self._scheduler.run(rows, context.origin)

    async def attend_stream(self, connection: Connection, context: CallContext) -> None:
        """Run the requests of a stream as they arrive, and answer each when its run has ended."""
        with self._stream_shares.open(context.origin.peer) as share_bytes:
            stream = RequestStream(
                connection,
                context,
                self._stream_plans,
                self._scheduler,
                self._settings,
                share_bytes=share_bytes,
                pace=self._refusal_pace,
            )
            await stream.serve(self._draining)

    async def list_models(self, data: bytes, _: CallContext) -> bytes:
        """List the attention blocks and whole models of the repository."""
        parse_question(pb.ListModelsRequest, data)
        models = [
            describe_model(model, self._repository.problem(model.name, model.version))
            for model in self._repository.all()
            if not isinstance(model, OnnxModel)
        ]
        return pb.ListModelsResponse(models=models).SerializeToString()

    async def get_model(self, data: bytes, _: CallContext) -> bytes:
        """Describe one model."""
        request = parse_question(pb.GetModelRequest, data)
        model = self._repository.find(request.name, request.version, "name")
        if isinstance(model, OnnxModel):
            self._repository.get(request.name, request.version)  # raises the reason
        problem = self._repository.problem(model.name, model.version)
        return pb.GetModelResponse(model=describe_model(model, problem)).SerializeToString()

    async def get_server_info(self, data: bytes, _: CallContext) -> bytes:
        """Describe the server."""
        parse_question(pb.GetServerInfoRequest, data)
        return describe_server(self._repository.loaded(), self._settings).SerializeToString()

    async def reload_models(self, data: bytes, _: CallContext) -> bytes:
        """Load the changed models of the repository."""
        parse_question(pb.ReloadModelsRequest, data)
        if self._reload_models is None:
            raise ModelControlError("reload")
        changes = await self._reload_models()
        return pb.ReloadModelsResponse(changes=map(describe_change, changes)).SerializeToString()
