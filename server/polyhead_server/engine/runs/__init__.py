"""The runs of a graph for one request."""
