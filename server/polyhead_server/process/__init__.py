"""A process that serves: its event loop, signals, port, memory; several under a supervisor."""
