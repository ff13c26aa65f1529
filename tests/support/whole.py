"""Whole models as they run segment by segment, in ONNX Runtime alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime as ort

from polyhead_models.checkpoint.checkpoint import Checkpoint
from polyhead_models.export.whole import export_whole_model
from polyhead_models.whole_config import WHOLE_KEY, Stack, WholeConfig

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

__all__ = ["SegmentedModel"]


class SegmentedModel:
    """An exported whole model, run as its configuration says."""

    def __init__(self, folder: Path) -> None:
        """``folder``: a version's folder, with model.onnx."""
        options = ort.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = 1, 3
        self._session = ort.InferenceSession(
            str(folder / "model.onnx"), options, providers=["CPUExecutionProvider"]
        )
        metadata = self._session.get_modelmeta().custom_metadata_map
        self.config = WholeConfig.from_json(metadata[WHOLE_KEY])

    @classmethod
    def export(cls, checkpoint: Path, repository: Path) -> SegmentedModel:
        """Export a checkpoint's whole model, and load it."""
        return cls(export_whole_model(Checkpoint.open(checkpoint), "m", repository).folder)

    def run(self, segment: int, **feeds: Any) -> NDArray[np.float32]:
        """Run a segment, and return its output."""
        feeds["segment"] = np.array(segment)
        output: NDArray[np.float32] = self._session.run(["output"], feeds)[0]
        return output

    def forward(
        self, stack: Stack, model_input: NDArray[Any], memory: NDArray[np.float32] | None = None
    ) -> list[NDArray[np.float32]]:
        """Return the hidden states that enter each layer, those that leave the last, the output."""
        states = [self.run(stack.embed, **{stack.input: model_input})]
        for layer in stack.layers:
            x = states[-1]
            for sublayer in layer:
                n = self.run(sublayer.enter, hidden_states=x) if sublayer.enter >= 0 else x
                keys = n if sublayer.kind == "self" else memory
                feeds = {"query": n, "key": keys, "value": keys}
                if sublayer.block and sublayer.block.rotary:
                    positions = np.tile(np.arange(x.shape[1]), (len(x), 1))
                    feeds |= {"positions": positions, "key_positions": positions}
                    feeds |= {"max_position": np.array(positions.max())}
                attended = self.run(sublayer.attention, **feeds)
                x = self.run(sublayer.leave, hidden_states=x, attended=attended, attention_input=n)
            states.append(x)
        is_finished = stack.finish >= 0
        output = self.run(stack.finish, hidden_states=states[-1]) if is_finished else states[-1]
        return [*states, output]
