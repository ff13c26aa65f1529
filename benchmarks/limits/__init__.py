"""Ratios of the service's cost to the cost of what it cannot undercut, each with a limit.

`python -m benchmarks.limits` writes its table into RESULTS.md. `--row stream` measures one row and
`--quick` all rows briefly; both write nothing.
"""
