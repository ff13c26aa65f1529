"""Several processes that serve one port, and their supervisor."""
