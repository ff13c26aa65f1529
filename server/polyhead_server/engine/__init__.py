"""Loads models into ONNX Runtime and runs their graphs."""
