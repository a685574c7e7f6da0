"""caan: from a trained CAAN checkpoint to ONNX, engines and a retrieval runtime."""

__version__ = "0.1.0"
