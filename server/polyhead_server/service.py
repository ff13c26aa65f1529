"""polyhead.v1.AttentionService: decode, validate, run, encode."""

from __future__ import annotations

from contextlib import aclosing
from typing import TYPE_CHECKING

from polyhead.v1 import attention_pb2 as pb
from polyhead_server.codec import (
    decode_attend,
    decode_attend_rows,
    encode_attend,
    encode_rows,
    parse,
)
from polyhead_server.describe import describe_model, describe_server
from polyhead_server.errors import LimitExceededError, within
from polyhead_server.rpc import service_handler
from polyhead_server.validation import prepare, prepare_rows

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    import grpc

    from polyhead_server.repository import Repository
    from polyhead_server.rpc import CallContext
    from polyhead_server.scheduler import Scheduler
    from polyhead_server.settings import ServerSettings

__all__ = ["SERVICE_NAME", "AttentionService"]

SERVICE_NAME = pb.DESCRIPTOR.services_by_name["AttentionService"].full_name


class AttentionService:
    """The methods of the contract, each from a request's bytes to a response's."""

    def __init__(
        self, repository: Repository, scheduler: Scheduler, settings: ServerSettings
    ) -> None:
        self._repository = repository
        self._scheduler = scheduler
        self._settings = settings

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
        )

    async def attend(self, request: bytes, context: CallContext) -> bytes:
        """Run one attention block on one request."""
        self._check_request_size(len(request))
        with self._scheduler.holding(len(request)):
            return await self._attend(request, context)

    async def _attend(self, request: bytes, context: CallContext) -> bytes:
        scheduler, size = self._scheduler, len(request)
        call = await scheduler.offload(size, decode_attend, request)
        context.log_fields.update(request_id=call.request_id, model=call.model)
        model = self._repository.get(call.model, call.model_version)
        inputs = await scheduler.offload(size, prepare, call, model.config, self._settings)
        outputs, timing = await scheduler.run(model, inputs, context.deadline)
        return await scheduler.offload(outputs.nbytes, encode_attend, call, model, outputs, timing)

    async def attend_rows(
        self, request: bytes, context: CallContext
    ) -> AsyncGenerator[bytes, None]:
        """Run one attention block on one request, in blocks of query rows."""
        scheduler, size = self._scheduler, len(request)
        self._check_request_size(size)
        with scheduler.holding(size):
            call, wanted = await scheduler.offload(size, decode_attend_rows, request)
            context.log_fields.update(request_id=call.request_id, model=call.model)
            with within("call"):
                model = self._repository.get(call.model, call.model_version)
            plan = await scheduler.offload(
                size, prepare_rows, call, wanted, model.config, self._settings
            )
            with scheduler.holding(plan.held_bytes, beside=size):
                blocks = scheduler.run_rows(
                    model, plan.inputs, plan.rows_per_block, context.deadline
                )
                async with aclosing(blocks):
                    async for first_row, outputs, timing in blocks:
                        yield await scheduler.offload(
                            outputs.nbytes, encode_rows, call, model, first_row, outputs, timing
                        )

    async def list_models(self, request: bytes, _: CallContext) -> bytes:
        """List every model of the repository."""
        parse(pb.ListModelsRequest, request)
        models = [describe_model(model) for model in self._repository.all()]
        return pb.ListModelsResponse(models=models).SerializeToString()

    async def get_model(self, request: bytes, _: CallContext) -> bytes:
        """Describe one model."""
        wanted = parse(pb.GetModelRequest, request)
        model = self._repository.find(wanted.name, wanted.version, "name")
        return pb.GetModelResponse(model=describe_model(model)).SerializeToString()

    async def get_server_info(self, request: bytes, _: CallContext) -> bytes:
        """Describe the server."""
        parse(pb.GetServerInfoRequest, request)
        return describe_server(self._repository.loaded(), self._settings).SerializeToString()

    def _check_request_size(self, size: int) -> None:
        limit = self._settings.max_request_bytes
        if size > limit:
            raise LimitExceededError(
                "max_request_bytes",
                f"the request is {size} bytes, over this server's {limit}; "
                "send a smaller batch or a smaller dtype, or raise its --max-request-bytes",
                "REQUEST_TOO_LARGE",
                expected=limit,
                got=size,
            )
