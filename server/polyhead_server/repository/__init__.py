"""Loads the models of a repository, and checks that each computes what its metadata state."""
