"""Runs of a graph: one, or those that a request takes together."""
