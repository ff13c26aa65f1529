"""Load tests with the tools that people have: docs/load-testing.md says how to use them."""
