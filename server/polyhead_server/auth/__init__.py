"""Who may call: tokens, the file that lists them, and the role that each method needs."""
