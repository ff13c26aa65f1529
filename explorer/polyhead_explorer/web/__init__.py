"""HTTP: what protects the page, how arrays and errors travel, and what ends with a request."""
