"""The messages of one call: arguments -> a request's bytes, a response's bytes -> a result."""
