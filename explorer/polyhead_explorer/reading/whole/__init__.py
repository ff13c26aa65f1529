"""Readings of texts and pictures in whole models, which run layer by layer."""
