"""A model for Triton's Python backend: runs the ONNX file in its folder. Triton imports it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import triton_python_backend_utils as utils

MAX_BATCH_SIZE = 64


def _session(folder: Path) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    file = str(folder / "model.onnx")
    return ort.InferenceSession(file, options, providers=["CPUExecutionProvider"])


class TritonPythonModel:
    """Runs each batch of Triton's dynamic batching at once."""

    @staticmethod
    def auto_complete_config(config: Any) -> Any:  # noqa: ANN401 - Triton's own type
        """Give Triton the file's signature."""
        session = _session(Path(__file__).parent)
        for tensors, add in (
            (session.get_inputs(), config.add_input),
            (session.get_outputs(), config.add_output),
        ):
            for tensor in tensors:
                dims = [d if isinstance(d, int) else -1 for d in tensor.shape[1:]]
                add({"name": tensor.name, "data_type": "TYPE_FP32", "dims": dims})
        config.set_max_batch_size(MAX_BATCH_SIZE)
        config.set_dynamic_batching()
        return config

    def initialize(self, arguments: dict[str, str]) -> None:
        """Load the file."""
        folder = Path(arguments["model_repository"], arguments["model_version"])
        self._session = _session(folder)

    def execute(self, requests: list[Any]) -> list[Any]:
        """Run the requests together. Triton batches only sequences of equal length."""
        queries = [utils.get_input_tensor_by_name(r, "query").as_numpy() for r in requests]
        names = list(dict.fromkeys(n for r in requests for n in r.requested_output_names()))
        query = queries[0] if len(queries) == 1 else np.concatenate(queries)
        outputs = self._session.run(names, {"query": query})
        ends = np.cumsum([len(query) for query in queries])[:-1]
        return [
            utils.InferenceResponse([utils.Tensor(*pair) for pair in zip(names, part, strict=True)])
            for part in zip(*(np.split(output, ends) for output in outputs), strict=True)
        ]
