"""Attention weights through a real server: all of them, against what one usually wants to know.

`python -m benchmarks.weights` writes its tables into RESULTS.md; with `--quick` it asks for short
sequences, writes nothing, and so shows that it works.
"""
