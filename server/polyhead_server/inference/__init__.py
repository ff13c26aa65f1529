"""Generated from protos/inference: the messages of the Open Inference Protocol."""
