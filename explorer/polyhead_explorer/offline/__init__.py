"""The page as one file that works without a server: its scripts, its styles, and its answers."""
