"""Texts as models read them: tokens, attention weights and hidden states, fetched on demand."""
