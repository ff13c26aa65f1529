"""Commands that query servers."""
