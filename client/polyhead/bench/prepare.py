"""Asks the server about the model, and tries the workload's largest request before the load."""

from __future__ import annotations

from typing import TYPE_CHECKING

from polyhead.bench.payloads import input_widths, largest_payload
from polyhead.bench.plan import Workload
from polyhead.bench.worker import make_client
from polyhead.cli.command import UsageError
from polyhead.errors import ModelUnavailableError, PolyheadError

if TYPE_CHECKING:
    from polyhead import AsyncClient
    from polyhead.bench.plan import Target
    from polyhead.results import Weights
    from polyhead.types import ModelInfo

__all__ = ["prepare_workload"]


async def prepare_workload(
    target: Target,
    *,
    model: str | None,
    version: int | None,
    lengths: tuple[int, ...],
    batch_size: int,
    dtype: str | None,
    need_weights: bool | Weights,
) -> Workload:
    """Make the workload for a server's model, and send its largest request once.

    ``model``: None means the server's only model. ``dtype``: None means float32, or float16 for a
    float16 model. Raises PolyheadError with the server's message if it refuses the request, and
    UsageError for a whole model, or without a name if the server has several models.
    """
    async with make_client(target) as client:
        info = await (_only_model(client) if model is None else client.model(model, version))
        if info.whole:
            raise UsageError(
                f"--model: {info.name!r} is a whole model, and bench measures attention blocks; "
                "expected the name of a block"
            )
        if info.spec is None or not info.is_ready:
            raise ModelUnavailableError(
                f"the server could not load {info.name!r}: {info.state_reason}"
            )
        model_dtype = "float16" if info.spec.precision == "float16" else "float32"
        workload = Workload(
            model=info.name,
            version=info.version,
            widths=input_widths(info.spec),
            lengths=lengths,
            batch_size=batch_size,
            dtype=dtype or model_dtype,
            need_weights=need_weights,
        )
        await _send_largest_request(client, workload)
    return workload


async def _only_model(client: AsyncClient) -> ModelInfo:
    models = await client.models()
    names = sorted({model.name for model in models if model.is_ready})
    if len(names) != 1:
        raise UsageError(
            "--model: name one of the server's models: " + ", ".join(names)
            if names
            else "the server has no model that can be called: see `polyhead models`"
        )
    return await client.model(names[0])


async def _send_largest_request(client: AsyncClient, workload: Workload) -> None:
    payload = largest_payload(workload)
    try:
        await client.attend(**payload.arguments)
    except PolyheadError as error:
        raise PolyheadError(
            f"the first request, {workload.batch_size} x {max(workload.lengths)} tokens, failed: "
            f"{error}",
            code=error.code,
            reason=error.reason,
        ) from error
