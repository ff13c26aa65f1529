"""The page's endpoints. Each reads a request, asks the server by a Reading, and sends frames."""
