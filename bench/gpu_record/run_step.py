"""One step in its own process: `python -m caan.bench.gpu_record.run_step NAME ROWS SETTINGS`.

It rewrites the JSON file ROWS after every row, and adds the status and its reason at the end.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
import traceback
from importlib import import_module
from pathlib import Path
from typing import Any

from ..._files import atomic_file
from ..._machine import has_nvidia_driver
from ...errors import MissingError
from .plan import STEPS, Row, StepSettings

DONE, FAILED, TIMED_OUT, COULD_NOT_RUN = "done", "failed", "timed out", "could not run"


def main(name: str, file: str, encoded: str) -> None:
    threading.Thread(target=_end_with_parent, args=(os.getppid(),), daemon=True).start()
    result: dict[str, Any] = {"status": None, "reason": "", "rows": {}}

    def save(**more: Any) -> None:
        result.update(more)
        with atomic_file(Path(file)) as temporary:
            temporary.write_text(json.dumps(result), encoding="utf-8")

    def put(row: str, values: Row) -> None:
        result["rows"][row] = values
        save()

    step = next(step for step in STEPS if step.name == name)
    settings = StepSettings.from_json(encoded)
    try:
        if step.needs_gpu and not settings.rehearse:
            _check_gpu()
        import_module(f".steps.{name}", __package__).run(settings, put)
    except MissingError as error:
        save(status=COULD_NOT_RUN, reason=str(error))
    except Exception as error:
        traceback.print_exc()
        save(status=FAILED, reason=f"{type(error).__name__}: {error}"[:500])
    else:
        bad = [row for row, values in result["rows"].items() if values.get("ok") is False]
        save(status=FAILED if bad else DONE, reason=f"failed checks: {'; '.join(bad)}"[:500] if bad else "")


def _check_gpu() -> None:
    """Raise MissingError if PyTorch sees no GPU. Without a driver PyTorch is not even loaded."""
    if not has_nvidia_driver():
        raise MissingError("there is no NVIDIA GPU here, or no driver for it: libcuda.so.1 does not load")
    import torch

    if not torch.cuda.is_available():
        raise MissingError(f"PyTorch {torch.__version__} sees no NVIDIA GPU; see the step 'machine'")


def _end_with_parent(parent: int) -> None:
    """However the record ends, its processes must not keep using the GPU."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    main(*sys.argv[1:])
