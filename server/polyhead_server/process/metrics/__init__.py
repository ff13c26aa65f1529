"""Metrics for Prometheus: taken where they are counted, joined, and answered on a port."""
