"""Loads the models of a folder, and checks that each computes what its metadata says."""
