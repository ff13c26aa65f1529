"""Where requests wait for their turn, and the threads that run them."""
