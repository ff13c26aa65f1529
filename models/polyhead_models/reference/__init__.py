"""The mathematics of a block in float64 NumPy, as documentation and as the tests' reference."""
