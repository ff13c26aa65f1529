"""Whole models: embeddings, layers with their attention blocks, and norms, in one ONNX file.

segments    the parts of the graph that run by themselves, one at a time
embeddings  token ids, images and spectrograms -> hidden states
layers      norms, linear maps and activations as nodes
activations activation functions, as chains of operators
build       a checkpoint's tables and tensors -> the graph, layer by layer
"""
