"""The page's endpoints: each reads a request, asks the server by a reading, and sends frames."""
