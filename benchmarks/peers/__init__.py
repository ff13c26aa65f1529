"""Compares polyhead with other servers of the same block: Triton and MLServer.

`python -m benchmarks.peers --peers DIR` writes its tables into RESULTS.md. DIR holds a virtual
environment for each peer, made with Python 3.11 on Linux (x86-64, glibc 2.35 or newer)::

    python3 -m venv DIR/triton
    DIR/triton/bin/pip install 'nvidia-pytriton==0.7.0' onnxruntime
    python3 -m venv DIR/mlserver
    DIR/mlserver/bin/pip install 'mlserver==1.7.1' onnxruntime

nvidia-pytriton contains Triton with its Python backend. A peer that DIR lacks is left out.
Without DIR only polyhead is measured, and nothing is written. `--quick` also writes nothing. The
second load generator is h2load (Debian: nghttp2-client), if it is installed.
"""
