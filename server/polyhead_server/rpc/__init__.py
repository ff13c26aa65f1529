"""gRPC calls around plain methods: deadlines, statuses, one line in the log."""
