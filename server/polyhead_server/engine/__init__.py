"""ONNX Runtime: models, and the runs of their graphs."""
