"""One call: arguments to the bytes of a request, and a response's bytes to a result."""
