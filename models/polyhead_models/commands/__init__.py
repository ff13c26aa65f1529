"""The subcommands `polyhead export` and `polyhead inspect`."""
