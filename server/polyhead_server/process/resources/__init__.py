"""CPUs and memory: how much there is, and how it is kept and given back."""
