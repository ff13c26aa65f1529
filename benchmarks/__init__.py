"""What attention costs, measured: `make bench`, or one part: `python -m benchmarks.variants`.

`python -m benchmarks.peers` is not among them: it needs other servers, and says how to get them.

Linux only: memory and CPU time are read where Linux tells them.
"""
