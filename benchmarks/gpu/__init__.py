"""Checks and measures whole models on a GPU, beside torch."""
