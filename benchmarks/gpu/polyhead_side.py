"""A whole model in the server's engine, without gRPC, and one of its blocks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from polyhead.v1 import forward_pb2 as f
from polyhead.v1 import tensor_pb2 as t
from polyhead.wire.tensors import to_tensor
from polyhead_models.checkpoint.checkpoint import Checkpoint
from polyhead_models.export.export import export_block
from polyhead_models.export.whole import export_whole_model
from polyhead_models.reference.attention import attend
from polyhead_server.call import AttentionInputs, WeightsSelection
from polyhead_server.codec.forward import read_forward_call
from polyhead_server.engine.device import Device
from polyhead_server.engine.model import Model
from polyhead_server.engine.runs.attention_run import AttentionRun
from polyhead_server.engine.runtime import Engine
from polyhead_server.engine.whole_model import WholeModel
from polyhead_server.planning.forward.plan import plan_forward
from polyhead_server.settings import ServerSettings

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from polyhead_server.forward_call import ForwardOutputs

__all__ = ["WholeCase", "block_error", "largest_error", "make_engine"]

_SETTINGS = ServerSettings(max_response_bytes=2**31 - 1)


def make_engine(device: str, *, stays: bool = True) -> Engine:
    """Make an engine for cuda or cpu. ``stays``: whether tensors stay there between segments."""
    return Engine(
        device,
        {},
        threads=1,
        spinning=False,
        max_scores_bytes=1 << 30,
        device=Device(device) if stays else None,
    )


@dataclass(frozen=True)
class WholeCase:
    """A checkpoint as a whole model."""

    model: WholeModel

    @classmethod
    def of(cls, checkpoint: Path, folder: Path, precision: str, engine: Engine) -> WholeCase:
        """Export a checkpoint to a folder, and load it."""
        exported = export_whole_model(
            Checkpoint.open(checkpoint),
            "model",
            folder,
            precision=precision,
            version=1,
            overwrite=True,
        )
        model = engine.load("model", 1, exported.folder / "model.onnx")
        assert isinstance(model, WholeModel)
        return cls(model)

    @property
    def vocab_size(self) -> int:
        """Number of token ids."""
        return self.model.config.stacks[0].vocab_size

    def run(self, ids: NDArray[np.int64], *, all_weights: bool = False) -> ForwardOutputs:
        """Compute the output, or all weights of all layers."""
        request = f.ForwardRequest(model="model", token_ids=to_tensor(ids), omit_output=all_weights)
        if all_weights:
            [stack] = self.model.config.stacks
            request.attn_weights.extend(
                f.LayerWeights(layer=f.LayerRef(layer=n), selection=t.AttnWeightsSelection())
                for n in range(len(stack.layers))
            )
        call = read_forward_call(request.SerializeToString())
        steps = plan_forward(call, self.model, _SETTINGS)
        try:
            while True:
                next(steps)
        except StopIteration as end:
            run = end.value.run
        for _ in run.steps():
            pass
        outputs: ForwardOutputs = run.outputs
        return outputs


def block_error(checkpoint: Path, folder: Path, precision: str, engine: Engine) -> dict[str, float]:
    """Return the largest errors of the first layer's block against float64, by output."""
    opened = Checkpoint.open(checkpoint)
    block = opened.load(opened.locations()[0], 0)
    exported = export_block(block, "block", folder, precision=precision, version=1, overwrite=True)
    model = engine.load("block", 1, exported.file)
    assert isinstance(model, Model)
    dtype = model.config.dtype
    query = np.random.default_rng(0).standard_normal((2, 64, block.config.embed_dim)).astype(dtype)
    positions = np.tile(np.arange(64), (2, 1)) if block.config.rotary else None
    expected = attend(block, query.astype(np.float64))
    errors = {}
    for name, weights in (("output", None), ("weights", WeightsSelection())):
        inputs = AttentionInputs(
            query=query,
            key=query,
            value=query,
            attn_mask=None,
            kv_lengths=None,
            weights=weights,
            positions=positions,
            key_positions=positions,
            need_output=weights is None,
        )
        outputs = AttentionRun.on(model, inputs).everything()
        actual = outputs.output if weights is None else outputs.attn_weights
        assert actual is not None
        errors[f"block, {name}"] = largest_error(actual, expected[weights is not None])
    return errors


def largest_error(actual: NDArray[Any], expected: NDArray[Any]) -> float:
    """Return the largest error as a fraction of the largest magnitude."""
    error = np.abs(actual.astype(np.float64) - expected).max()
    return float(error / np.abs(expected).max())
