"""The layer between gRPC and plain methods: deadlines, statuses, one log line for each call."""
