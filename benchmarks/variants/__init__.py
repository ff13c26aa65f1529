"""Every variant of attention: which branch runs, how long it takes, what memory it takes.

`python -m benchmarks.variants` writes its tables into RESULTS.md and docs/variants.md; with
`--quick` it measures a little of it, writes nothing, and so shows that it works.
"""
