"""polyhead as a deployment of Ray Serve: the same services, behind Serve's own gRPC proxy.

    serve run deploy/ray/serve.yaml

`app` builds the application; `add_services_to_server` goes into Serve's grpc_servicer_functions.
docs/ray.md says how to run it and what differs from `polyhead serve`.
"""

from __future__ import annotations

from polyhead_server.ray.application import app
from polyhead_server.ray.proxy import add_services_to_server

__all__ = ["add_services_to_server", "app"]
