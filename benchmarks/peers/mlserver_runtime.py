"""A runtime for MLServer that runs an ONNX file. MLServer imports this module."""

from __future__ import annotations

import numpy as np
import onnxruntime as ort
from mlserver import MLModel, types
from mlserver.codecs import NumpyCodec


class OnnxModel(MLModel):
    """Runs the ONNX file that the model's settings name."""

    async def load(self) -> bool:
        """Load the file."""
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        file = self.settings.parameters.uri
        self._session = ort.InferenceSession(file, options, providers=["CPUExecutionProvider"])
        return True

    async def predict(self, payload: types.InferenceRequest) -> types.InferenceResponse:
        """Run one request, or several that MLServer has batched."""
        feeds = {i.name: np.ascontiguousarray(NumpyCodec.decode_input(i)) for i in payload.inputs}
        names = [output.name for output in payload.outputs or self._session.get_outputs()]
        arrays = self._session.run(names, feeds)
        outputs = [NumpyCodec.encode_output(n, a) for n, a in zip(names, arrays, strict=True)]
        return types.InferenceResponse(model_name=self.name, id=payload.id, outputs=outputs)
