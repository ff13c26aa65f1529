"""polyhead.v1.AttentionService."""
