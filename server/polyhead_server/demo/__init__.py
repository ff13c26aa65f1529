"""The story of the river bank, told with a real server."""
