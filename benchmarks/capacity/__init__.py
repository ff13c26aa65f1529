"""Computes the calls that cores, machines and a hundred machines answer, from RESULTS.md."""
