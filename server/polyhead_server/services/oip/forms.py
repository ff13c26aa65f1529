"""What was found out about requests of one form, of either kind of model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from polyhead_server.engine.onnx_model import OnnxModel
from polyhead_server.planning.plan_cache import Forms
from polyhead_server.services.oip.onnx_request import OnnxCall, OnnxForm
from polyhead_server.services.oip.to_attend_request import version_of

if TYPE_CHECKING:
    from polyhead_server.repository.repository import Repository
    from polyhead_server.services.oip.request import InferRequest
    from polyhead_server.settings import ServerSettings

__all__ = ["InferForms"]


class InferForms(Forms):
    """Recognises ModelInferRequests by their skeletons."""

    def __init__(self, repository: Repository, limits: ServerSettings) -> None:
        super().__init__(repository, limits)
        self._max_response_bytes = limits.max_response_bytes

    def _read(self, request: InferRequest) -> Any:  # noqa: ANN401 - as there
        message = request.message
        version = version_of(message.model_version, "model_version")
        model = self._repository.runnable(message.model_name, version, "model_name")
        if not isinstance(model, OnnxModel):
            return super()._read(request)
        reading = OnnxCall.of(message, model)
        request.accept(reading)
        return OnnxForm.of(reading, self._max_response_bytes)
