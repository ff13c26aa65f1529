"""Commands that send a call."""
