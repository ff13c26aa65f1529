"""Checks and plans a request to a whole model, in a worker thread.

tokens         texts -> tokens, a few texts at a time
inputs         the input of each stack: tokens, images, hidden states, a memory
token_inputs   tokens of texts, ids, and their types
stack_input    what enters a stack
plan           which layers run, and what of them is kept
size           how large the response will be
"""
