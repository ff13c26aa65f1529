"""Measures goodput under overload: the answered calls when more arrive than the server can do."""
