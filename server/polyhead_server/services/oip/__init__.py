"""The Open Inference Protocol, beside AttentionService and over the same engine."""
