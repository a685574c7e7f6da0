"""The names `Retriever.open` takes, as Literal types: editors complete them, type checkers catch misspellings."""

from __future__ import annotations

from typing import Literal

BackendName = Literal["auto", "native", "onnxruntime", "tensorrt", "triton", "torch"]
Precision = Literal["fp32", "fp16", "int8", "bf16"]
Device = Literal["auto", "cpu", "cuda"]
