"""Whole models over the Open Inference Protocol, run as AttentionService.Forward runs them.

signature   the inputs and outputs of a model, by the protocol's names
request     a ModelInferRequest -> a ForwardCall, and what was computed -> a ModelInferResponse
inputs      what the request's inputs hold
outputs     which outputs the request names, and how each is written
"""
