"""The `polyhead` command."""
