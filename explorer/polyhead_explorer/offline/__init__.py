"""The page as one file that works without a server, with its scripts, styles and answers."""
