"""What the protocol tells of the server and its models."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from polyhead_server.oip import grpc_inference_pb2 as pb
from polyhead_server.oip.tensor_types import BYTES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from polyhead_server.engine import Model
    from polyhead_server.statistics import Duration, ModelStatistics, Tally

__all__ = ["EXTENSIONS", "config_of", "metadata_of", "statistics_of"]

EXTENSIONS = (
    "binary_tensor_data",
    "model_repository",
    "model_configuration",
    "statistics",
    "parameters",
)
_PLATFORM, _BACKEND = "onnxruntime_onnx", "onnxruntime"
_ANY = -1
_NS = 1_000_000_000
_MAX_BATCH_SIZE = 1 << 20
"""Of an attention block: as many sequences as the limits on bytes allow."""


class _Tensor(NamedTuple):
    name: str
    datatype: str
    shape: tuple[int, ...]
    optional: bool = False


def metadata_of(model: Model, versions: Sequence[int]) -> pb.ModelMetadataResponse:
    """Tell a model's inputs and outputs, each with its batch axis."""
    inputs, outputs = _signature(model)
    return pb.ModelMetadataResponse(
        name=model.name,
        versions=[str(version) for version in versions],
        platform=_PLATFORM,
        inputs=[_metadata(tensor) for tensor in inputs],
        outputs=[_metadata(tensor) for tensor in outputs],
    )


def config_of(model: Model) -> pb.ModelConfigResponse:
    """Tell the same as Triton's configuration does: the batch axis is no dimension there."""
    inputs, outputs = _signature(model)
    return pb.ModelConfigResponse(
        config=pb.ModelConfig(
            name=model.name,
            platform=_PLATFORM,
            backend=_BACKEND,
            max_batch_size=_MAX_BATCH_SIZE,
            input=[
                pb.ModelInput(
                    name=tensor.name,
                    data_type=_data_type(tensor.datatype),
                    dims=tensor.shape[1:],
                    optional=tensor.optional,
                )
                for tensor in inputs
            ],
            output=[
                pb.ModelOutput(
                    name=tensor.name, data_type=_data_type(tensor.datatype), dims=tensor.shape[1:]
                )
                for tensor in outputs
            ],
            model_transaction_policy=pb.ModelTransactionPolicy(decoupled=False),
        )
    )


def statistics_of(name: str, version: int, statistics: ModelStatistics) -> pb.ModelStatistics:
    """Tell what a version of a model has done."""
    compute = statistics.compute
    return pb.ModelStatistics(
        name=name,
        version=str(version),
        last_inference=int(statistics.last_inference_s * 1000),
        inference_count=statistics.inference_count,
        execution_count=statistics.execution_count,
        inference_stats=pb.InferStatistics(
            success=_duration(statistics.success),
            fail=_duration(statistics.fail),
            queue=_duration(statistics.queue),
            compute_input=_duration(compute.input),
            compute_infer=_duration(compute.infer),
            compute_output=_duration(compute.output),
            cache_hit=pb.StatisticDuration(),
            cache_miss=pb.StatisticDuration(),
        ),
        batch_stats=[
            _batch(batch_size, tally) for batch_size, tally in sorted(statistics.batches.items())
        ],
    )


def _signature(model: Model) -> tuple[list[_Tensor], list[_Tensor]]:
    """List an attention block's inputs and outputs."""
    config = model.config
    datatype = {"float32": "FP32", "float16": "FP16"}[config.dtype]
    inputs = [
        _Tensor("query", datatype, (_ANY, _ANY, config.embed_dim)),
        _Tensor(
            "key", datatype, (_ANY, _ANY, config.kdim), optional=config.kdim == config.embed_dim
        ),
        _Tensor("value", datatype, (_ANY, _ANY, config.vdim), optional=config.vdim == config.kdim),
        _Tensor("attn_mask", "BOOL", (_ANY, _ANY, _ANY, _ANY), optional=True),
        _Tensor("kv_lengths", "INT32", (_ANY,), optional=True),
    ]
    if config.rotary is not None:
        inputs += [
            _Tensor("positions", "INT64", (_ANY, _ANY), optional=True),
            _Tensor("key_positions", "INT64", (_ANY, _ANY), optional=True),
        ]
    outputs = [
        _Tensor("output", datatype, (_ANY, _ANY, config.output_dim)),
        _Tensor("attn_weights", datatype, (_ANY, _ANY, _ANY, _ANY)),
        _Tensor("top_keys", "INT32", (_ANY, _ANY, _ANY, _ANY)),
    ]
    return inputs, outputs


def _metadata(tensor: _Tensor) -> pb.ModelMetadataResponse.TensorMetadata:
    return pb.ModelMetadataResponse.TensorMetadata(
        name=tensor.name, datatype=tensor.datatype, shape=tensor.shape
    )


def _data_type(datatype: str) -> pb.DataType.ValueType:
    return pb.DataType.Value("TYPE_" + ("STRING" if datatype == BYTES else datatype))


def _batch(batch_size: int, tally: Tally) -> pb.InferBatchStatistics:
    return pb.InferBatchStatistics(
        batch_size=batch_size,
        compute_input=_duration(tally.input),
        compute_infer=_duration(tally.infer),
        compute_output=_duration(tally.output),
    )


def _duration(duration: Duration) -> pb.StatisticDuration:
    return pb.StatisticDuration(count=duration.count, ns=int(duration.seconds * _NS))
