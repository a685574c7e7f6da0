"""One step in a process of its own: `python -m caan.bench.gpu_record.run_step NAME ROWS ASKED`.

What it finds goes into the JSON file ROWS, after every row; its last words are the status and the reason.
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
from .plan import STEPS, Asked, Row

DONE, FAILED, TIMED_OUT, COULD_NOT_RUN = "done", "failed", "timed out", "could not run"


def main(name: str, file: str, asked: str) -> None:
    threading.Thread(target=_end_with_parent, args=(os.getppid(),), daemon=True).start()
    found: dict[str, Any] = {"status": None, "reason": "", "rows": {}}

    def save(**more: Any) -> None:
        found.update(more)
        with atomic_file(Path(file)) as temporary:
            temporary.write_text(json.dumps(found), encoding="utf-8")

    def put(row: str, values: Row) -> None:
        found["rows"][row] = values
        save()

    step = next(step for step in STEPS if step.name == name)
    given = Asked.from_json(asked)
    try:
        if step.needs_gpu and not given.rehearse:
            _check_gpu()
        import_module(f".steps.{name}", __package__).run(given, put)
    except MissingError as error:
        save(status=COULD_NOT_RUN, reason=str(error))
    except Exception as error:
        traceback.print_exc()
        save(status=FAILED, reason=f"{type(error).__name__}: {error}"[:500])
    else:
        bad = [row for row, values in found["rows"].items() if values.get("ok") is False]
        save(status=FAILED if bad else DONE, reason=f"not as it should be: {'; '.join(bad)}"[:500] if bad else "")


def _check_gpu() -> None:
    """Raise MissingError where PyTorch has no GPU. Without a driver PyTorch is not even loaded."""
    if not has_nvidia_driver():
        raise MissingError("there is no NVIDIA GPU here, or no driver of it: libcuda.so.1 does not load")
    import torch

    if not torch.cuda.is_available():
        raise MissingError(f"PyTorch {torch.__version__} sees no NVIDIA GPU; the step 'machine' says what is there")


def _end_with_parent(parent: int) -> None:
    """However the record ends, nothing of it must go on using the GPU."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    main(*sys.argv[1:])
