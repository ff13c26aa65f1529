"""Describes the server and its models in the protocol's messages."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from polyhead_server.engine.onnx_model import ANY, OnnxModel, TensorSpec
from polyhead_server.engine.statistics import Duration
from polyhead_server.engine.whole_model import WholeModel
from polyhead_server.inference import grpc_inference_pb2 as pb
from polyhead_server.services.oip.datatypes import BYTES
from polyhead_server.services.oip.parameters import BLOCK_PARAMETERS, WHOLE_PARAMETERS
from polyhead_server.services.oip.to_attend_request import VECTORS
from polyhead_server.services.oip.whole.signature import (
    MAX_BATCH_SIZE,
    inputs_of,
    outputs_of,
    shape_of_vectors,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from polyhead_server.engine.statistics import ModelTotals, PhaseTotals
    from polyhead_server.repository.repository import AnyModel

__all__ = ["EXTENSIONS", "config_of", "metadata_of", "statistics_of"]

EXTENSIONS = (
    "binary_tensor_data",
    "model_repository",
    "model_configuration",
    "statistics",
    "parameters",
)
_PLATFORM, _BACKEND = "onnxruntime_onnx", "onnxruntime"
_NS = 1_000_000_000
_MAX_BATCH_SIZE = 1 << 20
"""The value for attention blocks. In fact the limits on bytes decide."""


class _Signature(NamedTuple):
    """Inputs and outputs of a model. Shapes include the batch axis, if there is one."""

    inputs: list[TensorSpec]
    outputs: list[TensorSpec]
    max_batch_size: int
    parameters: tuple[str, ...] = ()


def metadata_of(model: AnyModel, versions: Sequence[int]) -> pb.ModelMetadataResponse:
    """Describe a model's inputs and outputs, with the batch axis."""
    signature = _signature(model)
    inputs, outputs = _required(signature.inputs), _required(signature.outputs)
    properties = {
        "optional_inputs": _optional(signature.inputs),
        "optional_outputs": _optional(signature.outputs),
        "parameters": ", ".join(signature.parameters),
    }
    return pb.ModelMetadataResponse(
        name=model.name,
        versions=[str(version) for version in versions],
        platform=_PLATFORM,
        inputs=[_metadata(tensor) for tensor in inputs],
        outputs=[_metadata(tensor) for tensor in outputs],
        properties={name: text for name, text in properties.items() if text},
    )


def config_of(model: AnyModel) -> pb.ModelConfigResponse:
    """Describe a model as Triton's configuration does: without the batch axis."""
    signature = _signature(model)
    inputs, outputs = _required(signature.inputs), _required(signature.outputs)
    max_batch_size = signature.max_batch_size
    first = 1 if max_batch_size else 0
    return pb.ModelConfigResponse(
        config=pb.ModelConfig(
            name=model.name,
            platform=_PLATFORM,
            backend=_BACKEND,
            max_batch_size=max_batch_size,
            input=[pb.ModelInput(**_config(tensor, first)) for tensor in inputs],
            output=[pb.ModelOutput(**_config(tensor, first)) for tensor in outputs],
            model_transaction_policy=pb.ModelTransactionPolicy(decoupled=False),
        )
    )


def statistics_of(name: str, version: int, totals: ModelTotals) -> pb.ModelStatistics:
    """Convert the statistics of a version of a model."""
    return pb.ModelStatistics(
        name=name,
        version=str(version),
        last_inference=int(totals.last_inference_s * 1000),
        inference_count=totals.inference_count,
        execution_count=totals.execution_count,
        inference_stats=pb.InferStatistics(
            success=_duration(totals.success),
            fail=_duration(totals.fail),
            queue=_duration(totals.queue),
            **_parts(totals.compute),
            cache_hit=pb.StatisticDuration(),
            cache_miss=pb.StatisticDuration(),
        ),
        batch_stats=[
            pb.InferBatchStatistics(batch_size=batch_size, **_parts(phases))
            for batch_size, phases in sorted(totals.batches.items())
        ],
    )


def _signature(model: AnyModel) -> _Signature:
    """List a model's inputs and outputs."""
    if isinstance(model, OnnxModel):
        return _Signature(model.inputs, model.outputs, model.max_batch_size)
    if isinstance(model, WholeModel):
        inputs = [each.spec for each in inputs_of(model).values()]
        outputs = [each.spec for each in outputs_of(model).values()]
        return _Signature(inputs, outputs, MAX_BATCH_SIZE, WHOLE_PARAMETERS)
    config = model.config
    datatype = {"float32": "FP32", "float16": "FP16"}[config.dtype]
    inputs = [
        TensorSpec("query", datatype, (ANY, ANY, config.embed_dim)),
        TensorSpec(
            "key", datatype, (ANY, ANY, config.kdim), is_optional=config.kdim == config.embed_dim
        ),
        TensorSpec(
            "value", datatype, (ANY, ANY, config.vdim), is_optional=config.vdim == config.kdim
        ),
        TensorSpec("attn_mask", "BOOL", (ANY, ANY, ANY, ANY), is_optional=True),
        TensorSpec("kv_lengths", "INT32", (ANY,), is_optional=True),
    ]
    if config.rotary is not None:
        inputs += [
            TensorSpec("positions", "INT64", (ANY, ANY), is_optional=True),
            TensorSpec("key_positions", "INT64", (ANY, ANY), is_optional=True),
        ]
    outputs = [
        TensorSpec("output", datatype, (ANY, ANY, config.output_dim)),
        TensorSpec("attn_weights", datatype, (ANY, ANY, ANY, ANY)),
        TensorSpec("top_keys", "INT32", (ANY, ANY, ANY, ANY), is_optional=True),
    ]
    for name, kind in VECTORS.items():
        shape = shape_of_vectors(kind, config)
        outputs.append(TensorSpec(name, datatype, shape, is_optional=True))
    return _Signature(inputs, outputs, _MAX_BATCH_SIZE, BLOCK_PARAMETERS)


def _required(tensors: list[TensorSpec]) -> list[TensorSpec]:
    """Leave out optional tensors, which the metadata's properties list instead.

    perf_analyzer sends every listed input, even if the configuration says that it is optional, and
    asks for every listed output.
    """
    return [tensor for tensor in tensors if not tensor.is_optional]


def _optional(tensors: list[TensorSpec]) -> str:
    return "; ".join(
        f"{tensor.name} {tensor.datatype} {list(tensor.shape)}"
        for tensor in tensors
        if tensor.is_optional
    )


def _metadata(tensor: TensorSpec) -> pb.ModelMetadataResponse.TensorMetadata:
    return pb.ModelMetadataResponse.TensorMetadata(
        name=tensor.name, datatype=tensor.datatype, shape=tensor.shape
    )


def _config(tensor: TensorSpec, first_axis: int) -> dict[str, Any]:
    data_type = pb.DataType.Value(
        "TYPE_" + ("STRING" if tensor.datatype == BYTES else tensor.datatype)
    )
    return {"name": tensor.name, "data_type": data_type, "dims": tensor.shape[first_axis:]}


def _parts(totals: PhaseTotals) -> dict[str, pb.StatisticDuration]:
    """Return the three phases of computing under the protocol's names."""
    return {
        "compute_input": _duration(Duration(totals.count, totals.input_s)),
        "compute_infer": _duration(Duration(totals.count, totals.infer_s)),
        "compute_output": _duration(Duration(totals.count, totals.output_s)),
    }


def _duration(duration: Duration) -> pb.StatisticDuration:
    return pb.StatisticDuration(count=duration.count, ns=int(duration.seconds * _NS))
