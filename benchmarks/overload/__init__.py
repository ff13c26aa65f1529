"""Measures what is answered when more is asked than the server can do: goodput under overload."""
