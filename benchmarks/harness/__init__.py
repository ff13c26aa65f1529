"""What the benchmarks share: servers, load generators, clocks, and cases that take turns."""
