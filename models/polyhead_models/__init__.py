"""Attention blocks: configuration, ONNX graph, importers, and the float64 reference."""
