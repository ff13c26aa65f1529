"""polyhead.v1.AttentionService: read, recognise, run, reply."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from polyhead.v1 import attention_pb2 as pb
from polyhead_server.codec.request import AttendRequest, AttendRowsRequest, parse
from polyhead_server.engine.onnx_model import OnnxModel
from polyhead_server.errors import within
from polyhead_server.planning.plan import plan_rows
from polyhead_server.planning.plan_cache import Forms
from polyhead_server.planning.response_size import check_request_size
from polyhead_server.rpc.handlers import service_handler
from polyhead_server.scheduling.rows_job import RowsJob
from polyhead_server.services.attention.describe import describe_model, describe_server
from polyhead_server.services.attention.stream import RequestStream

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    import grpc

    from polyhead_server.planning.plan_cache import Form
    from polyhead_server.repository.repository import Repository
    from polyhead_server.rpc.handlers import CallContext, Connection
    from polyhead_server.scheduling.scheduler import Scheduler
    from polyhead_server.settings import ServerSettings

__all__ = ["SERVICE_NAME", "AttentionService"]

_LOADING_POLL_S = 0.05

SERVICE_NAME = pb.DESCRIPTOR.services_by_name["AttentionService"].full_name


class AttentionService:
    """The methods of the contract, each from a request's bytes to a response's."""

    def __init__(
        self,
        repository: Repository,
        scheduler: Scheduler,
        settings: ServerSettings,
        draining: asyncio.Event,
    ) -> None:
        """``draining``: set when streams are to end once what they have read is answered."""
        self._repository = repository
        self._scheduler = scheduler
        self._settings = settings
        self._forms = Forms(repository, settings)
        self._ending = draining
        self._num_streams = 0

    def handler(self) -> grpc.GenericRpcHandler:
        """Give the service in the form that a gRPC server registers."""
        return service_handler(
            SERVICE_NAME,
            {
                "Attend": self.attend,
                "ListModels": self.list_models,
                "GetModel": self.get_model,
                "GetServerInfo": self.get_server_info,
            },
            {"AttendRows": self.attend_rows},
            {"AttendStream": self.attend_stream},
        )

    async def attend(self, request: bytes, context: CallContext) -> bytes:
        """Run one attention block on one request."""
        check_request_size(len(request), self._settings.max_request_bytes)
        with self._scheduler.reserve_bytes(len(request)):
            received = context.request = AttendRequest(request)
            form: Form = self._forms.of(received)
            reply: bytes = await self._scheduler.run(form.job(received, context.deadline))
        return reply

    async def attend_rows(
        self, request: bytes, context: CallContext
    ) -> AsyncGenerator[bytes, None]:
        """Run one attention block on one request, in blocks of query rows."""
        size = len(request)
        check_request_size(size, self._settings.max_request_bytes)
        with self._scheduler.reserve_bytes(size):
            received = context.request = AttendRowsRequest(request)
            call, wanted = received.read_call()
            received.accept(call)
            with within("call"):
                model = self._repository.get(call.model, call.model_version)
            plan = plan_rows(call, wanted, model.config, self._settings)
            with self._scheduler.reserve_bytes(plan.held_bytes, already_reserved=size):
                job = RowsJob(model, plan, received, context.deadline)
                while job.has_more:
                    yield await self._scheduler.run(job)

    async def attend_stream(self, connection: Connection, context: CallContext) -> None:
        """Run requests as they come, and answer them as they are done."""
        # what is sent meanwhile waits in the transport
        while not (self._repository.is_loaded or self._ending.is_set()):  # noqa: ASYNC110 - loaded in a thread
            await asyncio.sleep(_LOADING_POLL_S)
        stream = RequestStream(
            connection,
            context,
            self._forms,
            self._scheduler,
            max_request_bytes=self._settings.max_request_bytes,
            share_bytes=lambda: self._settings.max_queue_bytes // self._num_streams,
            max_running=max(1, self._settings.max_queue_size // 2),
        )
        self._num_streams += 1
        try:
            await stream.serve(self._ending)
        finally:
            self._num_streams -= 1

    async def list_models(self, request: bytes, _: CallContext) -> bytes:
        """List every model of the repository."""
        parse(pb.ListModelsRequest, request)
        models = [
            describe_model(model)
            for model in self._repository.all()
            if not isinstance(model, OnnxModel)
        ]
        return pb.ListModelsResponse(models=models).SerializeToString()

    async def get_model(self, request: bytes, _: CallContext) -> bytes:
        """Describe one model."""
        wanted = parse(pb.GetModelRequest, request)
        model = self._repository.find(wanted.name, wanted.version, "name")
        if isinstance(model, OnnxModel):
            model = self._repository.get(wanted.name, wanted.version)  # which says what it is
        return pb.GetModelResponse(model=describe_model(model)).SerializeToString()

    async def get_server_info(self, request: bytes, _: CallContext) -> bytes:
        """Describe the server."""
        parse(pb.GetServerInfoRequest, request)
        return describe_server(self._repository.loaded(), self._settings).SerializeToString()
