"""TensorRT's messages while building, loading or running: errors are kept, nothing is printed."""

from __future__ import annotations

from functools import cache
from typing import Any

_KEPT = 100


@cache
def log_of(trt: Any) -> Any:
    """The single logger of a TensorRT module: `.errors`, newest last. Never freed, since the library keeps using the
    first logger it is given, from a builder or a runtime."""

    class Log(trt.ILogger):  # type: ignore[misc]  # the module is known when the program runs
        """Keeps errors and drops the rest: users can't act on the warnings."""

        def __init__(self) -> None:
            super().__init__()
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity <= trt.ILogger.Severity.ERROR:
                self.errors.append(message)
                del self.errors[:-_KEPT]

    return Log()
