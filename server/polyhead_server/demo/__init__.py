"""`polyhead demo`: attention in the sentence of the river bank, computed by a real server."""
