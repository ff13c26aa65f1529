"""The bytes of requests and responses, and the values that they mean."""
