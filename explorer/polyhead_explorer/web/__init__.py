"""The HTTP side: protection, requests, frames of arrays, errors, and responses."""
