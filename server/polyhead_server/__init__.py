"""The gRPC server that runs attention blocks with ONNX Runtime.

`polyhead serve` starts it; `polyhead_server.running.running_server` runs it in this process.
"""

import os

# onnxruntime's Linux wheel looks up a telemetry host when it is imported; only this stops it.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
