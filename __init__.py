"""caan: from a trained CAAN checkpoint to ONNX, engines and a retrieval runtime."""

import os

__version__ = "0.1.0"

# ONNX Runtime's wheels report over the network how they are used, unless this is set before they are imported.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
