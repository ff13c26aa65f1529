"""Checks a request against its model and the limits, and plans its run and its response."""
