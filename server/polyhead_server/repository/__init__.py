"""The folder of models, and whether each is what it says."""
