"""The gRPC services: each method from a request's bytes to a response's."""
