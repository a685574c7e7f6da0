"""All measurements that need an NVIDIA GPU, in one run: `make gpu-record`.

Each step of plan.py runs in its own process with its own time limit: a step that fails, hangs or breaks the GPU's
context does not stop the others. Results are on disk at once: `DATE-gpu-record.json`, the page `.md` and the steps'
output `.log`. An interrupted run keeps its results so far.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from itertools import count
from pathlib import Path
from typing import NoReturn

from .kit import unpack_missing
from .plan import STEPS, TOTAL_SECONDS, Step, StepSettings
from .record import Record, read_json
from .run_step import FAILED, TIMED_OUT

_POLL_SECONDS = 0.5
_REHEARSAL_PATIENCE = 5  # times the limits: Triton's interpreter on a busy machine is slow


def main() -> int:
    parser = argparse.ArgumentParser("make gpu-record", description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("docs/benchmarks"), metavar="DIR")
    parser.add_argument("--kit", type=Path, default=Path("gpu-kit"), metavar="DIR", help="the output of make gpu-kit")
    parser.add_argument("--data", type=Path, metavar="DIR", help="the gate's data set, with its model.pt")
    parser.add_argument("--scratch", type=Path, default=Path(".gpu-record"), metavar="DIR", help="on PYTHONPATH")
    parser.add_argument("--only", nargs="+", choices=[step.name for step in STEPS], help="only these steps")
    parser.add_argument("--rehearse", action="store_true", help="tiny sizes on the CPU, in Triton's interpreter")
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    steps = [step for step in STEPS if not options.only or step.name in options.only]
    base = _new_name(options.output, "gpu-record-rehearsal" if options.rehearse else "gpu-record")
    record = Record(base, steps, options.rehearse)
    scratch = options.scratch.resolve()
    scratch.mkdir(parents=True, exist_ok=True)
    unpack_missing(options.kit, scratch)
    data = options.data.resolve() if options.data else None
    settings = StepSettings(options.kit.resolve(), data, scratch, record.json_file.resolve(), options.rehearse)
    signal.signal(signal.SIGTERM, _stop)
    patience = _REHEARSAL_PATIENCE if options.rehearse else 1
    ends = time.monotonic() + TOTAL_SECONDS * patience
    for step in steps:
        print(f"{step.title} … ", end="", flush=True)
        _run(step, replace(settings, ends=min(ends, time.monotonic() + step.seconds * patience)), record)
        print(record.line(step), flush=True)
    record.finish()
    print(f"\n{record.page_file}\n{record.json_file}")
    return 1 if record.has_failed() else 0


def _run(step: Step, settings: StepSettings, record: Record) -> None:
    rows, log = (settings.scratch / f"{step.name}.{kind}" for kind in ("json", "out"))
    rows.unlink(missing_ok=True)
    environment = {**os.environ, "PYTHONUNBUFFERED": "1", "PYTHONFAULTHANDLER": "1"}
    # The user may have no home there, and the kit may lack platformdirs, which finds it.
    environment.setdefault("CAAN_CACHE", str(settings.scratch / "cache"))
    if settings.rehearse:
        environment["TRITON_INTERPRET"] = "1"
    command = [sys.executable, "-m", f"{__package__}.run_step", step.name, str(rows), settings.as_json()]
    started = time.monotonic()
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
        )
    try:
        while process.poll() is None and time.monotonic() < settings.ends:
            time.sleep(_POLL_SECONDS)
            record.update(step, read_json(rows), time.monotonic() - started)
    finally:  # however this ends, by Ctrl-C too
        in_time = process.poll() is not None
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        code = process.wait()
        result = read_json(rows)
        if not result.get("status"):
            reason = (
                f"its process ended with code {code}" if in_time else f"ended after {time.monotonic() - started:.0f} s"
            )
            result |= {"status": FAILED if in_time else TIMED_OUT, "reason": reason}
        record.update(step, result, time.monotonic() - started)
        record.append_log(step, log)


def _new_name(folder: Path, what: str) -> Path:
    """A new record's path without suffix."""
    name = f"{datetime.now():%Y-%m-%d}-{what}"
    names = (folder / (name if n == 1 else f"{name}-{n}") for n in count(1))
    return next(base for base in names if not base.with_name(f"{base.name}.json").exists())


def _stop(number: int, frame: object) -> NoReturn:
    raise SystemExit(128 + number)


if __name__ == "__main__":
    sys.exit(main())
