"""Requests as tritonclient makes them."""

from __future__ import annotations

import warnings

with warnings.catch_warnings():  # its stubs are made for the protobuf before
    warnings.simplefilter("ignore")
    import tritonclient.grpc as stock
    import tritonclient.grpc.aio as stock_aio
    from tritonclient.grpc import service_pb2, service_pb2_grpc
    from tritonclient.utils import np_to_triton_dtype

__all__ = ["inputs_of", "outputs_of", "service_pb2", "service_pb2_grpc", "stock", "stock_aio"]


def inputs_of(arrays, datatypes=None):
    """InferInputs of arrays, by name."""
    inputs = []
    for name, array in arrays.items():
        datatype = (datatypes or {}).get(name) or np_to_triton_dtype(array.dtype)
        given = stock.InferInput(name, list(array.shape), datatype)
        if datatype == "BF16":  # given as bits: its versions differ in how they take them
            given._raw_content = array.tobytes()
        else:
            given.set_data_from_numpy(array)
        inputs.append(given)
    return inputs


def outputs_of(*names):
    """InferRequestedOutputs of these names."""
    return [stock.InferRequestedOutput(name) for name in names]
