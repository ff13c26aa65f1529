"""Sessions of ONNX Runtime in this process."""

import os

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
import onnxruntime as ort


def loaded(model):
    """Load a model from its bytes: one thread, on the CPU."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4  # it warns of inputs that have defaults
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
