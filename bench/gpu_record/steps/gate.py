"""R@K of the kernel: every precision of the backend `triton`, on real photos and captions."""

from __future__ import annotations

import time

from ....errors import CaanError
from ..kit_model import Gates
from ..plan import Put, StepSettings


def run(settings: StepSettings, put: Put) -> None:
    """One row for each precision."""
    gates = Gates(settings)
    for precision in ("fp16", "bf16", "fp32"):
        start = time.perf_counter()
        try:
            row = gates.row(precision, "triton", "auto")
        except CaanError as error:
            row = {"ok": False, "": str(error)}
        put(precision, row | {"s": time.perf_counter() - start})
