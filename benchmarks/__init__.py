"""Benchmarks: `make bench` runs them all, `python -m benchmarks.variants` runs one.

`make bench` leaves out `python -m benchmarks.peers`, which needs other servers and says how to get
them.

A *case* is one thing measured. Cases take turns for some *rounds*, so that whatever disturbs the
machine disturbs all of them. A *workload* is what is sent to a server.

Linux only, because memory and CPU time are read from /proc.
"""
