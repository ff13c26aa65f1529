"""Runs a checkpoint's whole model as the server does: exported, planned, and in its engine."""

from polyhead.v1.tensor_pb2 import DATA_TYPE_FLOAT
from polyhead_models.checkpoint.checkpoint import Checkpoint
from polyhead_models.export.whole import export_whole_model
from polyhead_server.call import WeightsSelection
from polyhead_server.engine.runtime import Engine
from polyhead_server.forward_call import ForwardCall, RequestedWeights
from polyhead_server.planning.forward.plan import plan_forward
from polyhead_server.settings import ServerSettings

_ENGINE = Engine("cpu", {}, threads=1, spinning=False, max_scores_bytes=1 << 30)
_SETTINGS = ServerSettings(max_response_bytes=2**31 - 1)  # a patch of one pixel gives large weights
_ALL_WEIGHTS = RequestedWeights("attn_weights[0]", None, WeightsSelection())


class ServedModel:
    """An exported whole model, loaded."""

    def __init__(self, folder):
        """Export the checkpoint in a folder, and load it. Raises CheckpointError."""
        exported = export_whole_model(Checkpoint.open(folder), "m", folder / "models")
        self._model = _ENGINE.load("m", 1, exported.folder / "model.onnx")
        self.config = exported.config

    def forward(self, arrays, lengths):
        """Yield everything that a request can want: its name, its stack, and the array.

        Names are those of transformers' outputs. ``arrays`` and ``lengths`` are the request's by
        their fields' names. Raises InvalidRequestError.
        """
        call = ForwardCall(
            model="m",
            model_version=0,
            request_id="",
            texts=(),
            text_pairs=(),
            arrays=arrays,
            lengths=lengths,
            first_layer=None,
            truncate=False,
            need_output=True,
            hidden_states=(),
            weights=(_ALL_WEIGHTS,),
            last_layer=None,
            output_dtype=DATA_TYPE_FLOAT,
            has_all_hidden_states=True,
        )
        plan = _value_of(plan_forward(call, self._model, _SETTINGS))
        for _ in plan.run.steps():
            pass
        outputs = plan.run.outputs
        for layer, states in outputs.hidden_states.items():
            yield f"hidden_states.{layer.layer}", layer.stack, states
        for index, weights in outputs.weights.items():
            stack, layer, kind = plan.call.weights[index].layer
            name = "cross_attentions" if kind == "cross" else "attentions"
            yield f"{name}.{layer}", stack, weights.attn_weights
        yield "last_hidden_state", outputs.layers_run[-1].stack, outputs.output


def _value_of(steps):
    """Take all steps of a generator, and return its value."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value
