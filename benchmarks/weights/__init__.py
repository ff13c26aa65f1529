"""Measures the cost of all attention weights from a real server, and of parts of them.

`python -m benchmarks.weights` writes its tables into RESULTS.md. `--quick` requests short sequences
to show that the benchmark works, and writes nothing.
"""
