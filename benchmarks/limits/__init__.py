"""How near the service is to what it cannot be faster than: a ratio against each limit.

`python -m benchmarks.limits` writes its table into RESULTS.md; `--row stream` measures one row, and
`--quick` all of them briefly; both write nothing.
"""
