"""`python -m benchmarks.models DIR --torch PYTHON`: what a whole model costs, beside torch."""
