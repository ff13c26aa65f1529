"""The Open Inference Protocol, a second service over the same engine."""
