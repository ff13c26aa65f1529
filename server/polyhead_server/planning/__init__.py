"""A request against its model and the limits: what it will take and how it is to be run."""
