"""caan: takes a trained CAAN checkpoint to ONNX, engines and a retrieval runtime.

`Retriever`, `Gallery`, `Hit` and `BatchingRetriever` are also available here; first use loads `caan.runtime`.
"""

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .runtime import BatchingRetriever as BatchingRetriever
    from .runtime import Gallery as Gallery
    from .runtime import Hit as Hit
    from .runtime import Retriever as Retriever

__version__ = "0.1.0"
__all__ = ["BatchingRetriever", "Gallery", "Hit", "Retriever", "__version__"]

# Disables the telemetry of ONNX Runtime's wheels; must be set before they are imported.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(".runtime", __name__), name)
    globals()[name] = value  # later accesses skip this function
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
