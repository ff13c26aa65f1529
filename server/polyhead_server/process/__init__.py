"""The server process: its event loop, signals, port and memory, and the supervisor of workers."""
