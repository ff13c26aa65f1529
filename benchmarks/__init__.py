"""Benchmarks: `make bench` runs them all, `python -m benchmarks.variants` runs one.

`make bench` leaves out `python -m benchmarks.peers`, which needs other servers. Its docstring says
how to install them.

A *case* is one measured function or call. Cases take turns for some *rounds*, so that a disturbance
of the machine affects all of them. A *workload* is the requests to a server.

Linux only, because memory and CPU time are read from /proc.
"""
