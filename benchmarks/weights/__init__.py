"""The cost of all attention weights through a real server, compared with parts of them.

`python -m benchmarks.weights` writes its tables into RESULTS.md. `--quick` requests short sequences
to show that the benchmark works, and writes nothing.
"""
