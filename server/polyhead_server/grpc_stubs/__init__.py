"""Generated stubs of gRPC's health and reflection; `make stubs`."""
