"""What TensorRT says while it builds, loads or runs: errors are kept, nothing is printed."""

from __future__ import annotations

from functools import cache
from typing import Any

_KEPT = 100


@cache
def log_of(trt: Any) -> Any:
    """The one logger of a TensorRT module: `.errors`, the newest last. Kept for ever: the library holds on to the
    first that it is given, whether that was a builder's or a runtime's."""

    class Log(trt.ILogger):  # type: ignore[misc]  # the module is known when the program runs
        """Keeps errors, drops the rest: warnings tell a user nothing that he could act on."""

        def __init__(self) -> None:
            super().__init__()
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity <= trt.ILogger.Severity.ERROR:
                self.errors.append(message)
                del self.errors[:-_KEPT]

    return Log()
