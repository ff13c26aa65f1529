"""Readings of texts and pictures: tokens, weights and hidden states, fetched on demand."""
