"""Check arguments before they are sent: arrays, and selections of attention weights."""
