"""Measures ratios of the service's cost to the cost of its necessary parts, each with a limit.

`python -m benchmarks.limits` writes its table into RESULTS.md. `--row stream` measures one row and
`--quick` all rows briefly; both write nothing.
"""
