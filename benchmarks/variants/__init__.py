"""Measures every variant of attention: the branch that runs, its time and its memory.

`python -m benchmarks.variants` writes its tables into RESULTS.md and docs/variants.md. `--quick`
measures a few small cases to show that the benchmark works, and writes nothing.
"""
