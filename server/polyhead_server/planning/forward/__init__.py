"""A request to a whole model against the model and the limits; in a worker thread.

inputs   what enters each stack: tokens of texts, ids, images, hidden states, a memory
plan     which layers run, and what of them is kept
size     how large the response will be
"""
