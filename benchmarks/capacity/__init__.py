"""What cores, machines and a hundred machines answer, by the figures in RESULTS.md."""
