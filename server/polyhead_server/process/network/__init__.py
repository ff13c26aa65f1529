"""The port that calls come from, and the connections to it."""
