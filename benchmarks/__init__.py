"""What attention costs, measured: `make bench`, or one part: `python -m benchmarks.variants`.

Linux only: memory and CPU time are read where Linux tells them.
"""
