"""What the server tells about itself and its models, as messages."""

from __future__ import annotations

from typing import TYPE_CHECKING

from polyhead._version import __version__
from polyhead.v1 import attention_pb2 as pb
from polyhead_server.engine import Model, onnxruntime_version

if TYPE_CHECKING:
    from polyhead_server.repository import UnavailableModel
    from polyhead_server.settings import ServerSettings

__all__ = ["describe_model", "describe_server"]


def describe_model(model: Model | UnavailableModel) -> pb.Model:
    """Describe a model, loaded or not."""
    if not isinstance(model, Model):
        return pb.Model(
            name=model.name,
            version=model.version,
            state=pb.MODEL_STATE_UNAVAILABLE,
            state_reason=model.reason,
        )
    config, provenance = model.config, model.provenance
    return pb.Model(
        name=model.name,
        version=model.version,
        state=pb.MODEL_STATE_READY,
        spec=pb.AttentionSpec(
            embed_dim=config.embed_dim,
            num_heads=config.num_heads,
            head_dim=config.head_dim,
            kdim=config.kdim,
            vdim=config.vdim,
            output_dim=config.output_dim,
            is_causal=config.is_causal,
            scale=config.scale,
            has_out_proj=config.has_out_proj,
        ),
        provenance=pb.Provenance(
            source=provenance.source,
            family=provenance.family,
            layer=provenance.layer,
            weights_sha256=provenance.weights_sha256,
            exporter=provenance.exporter,
        ),
        providers=model.providers,
    )


def describe_server(models: list[Model], settings: ServerSettings) -> pb.GetServerInfoResponse:
    """Describe the server, with every limit that a request can run into."""
    return pb.GetServerInfoResponse(
        version=__version__,
        onnxruntime_version=onnxruntime_version(),
        providers=models[0].providers,
        limits=pb.ServerLimits(
            max_request_bytes=settings.max_request_bytes,
            max_response_bytes=settings.max_response_bytes,
            max_scores_bytes=settings.max_scores_bytes,
            max_queue_size=settings.max_queue_size,
            max_queue_bytes=settings.max_queue_bytes,
            max_concurrent_runs=settings.max_concurrent_runs,
        ),
    )
