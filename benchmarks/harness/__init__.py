"""Shared parts of the benchmarks: servers, load generators, clocks, and cases that take turns."""
