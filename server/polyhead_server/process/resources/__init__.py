"""CPUs and memory: their limits, and how memory is cached and returned."""
