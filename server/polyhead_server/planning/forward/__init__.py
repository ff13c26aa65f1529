"""Checks and plans a request to a whole model, in a worker thread.

inputs   the input of each stack: tokens of texts, ids, images, hidden states, a memory
plan     which layers run, and what of them is kept
size     how large the response will be
"""
