"""Summaries of measured runs, and how they are shown: text, JSON, plots, progress."""
