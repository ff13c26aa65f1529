"""Load tests with common tools: Locust, ghz and k6. docs/load-testing.md describes their use."""
