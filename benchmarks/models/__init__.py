"""`python -m benchmarks.models DIR --torch PYTHON`: the cost of a whole model, beside torch."""
