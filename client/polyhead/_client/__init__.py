"""Client and AsyncClient, their connections, and descriptions of models and servers."""
