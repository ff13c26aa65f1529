"""Generated from protos/polyhead/v1; never edited."""
