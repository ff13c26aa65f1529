"""The gRPC server that runs attention blocks with ONNX Runtime."""
