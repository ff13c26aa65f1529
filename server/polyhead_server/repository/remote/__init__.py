"""Models of a store that fsspec reads, such as s3://: listed, fetched to a cache, verified."""
