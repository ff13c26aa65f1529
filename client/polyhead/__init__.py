"""Multi-head attention as a service: the client."""
