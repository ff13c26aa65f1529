"""The mathematics of a block in float64 NumPy, to be read and to test against."""
