"""Everything that only an NVIDIA GPU can tell, in one go: `make gpu-record`.

Each step of plan.py runs in a process of its own, with a time limit of its own: one that fails, hangs or breaks the
GPU's context stops no other. What is found is on disk at once: `DATE-gpu-record.json`, the page `.md` and the steps'
output `.log`; ended at any moment, they hold what was found until then.
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
from .plan import STEPS, TOTAL_SECONDS, Asked, Step
from .record import Record, read_json
from .run_step import FAILED, TIMED_OUT

_LOOK_EVERY = 0.5  # seconds
_REHEARSAL_PATIENCE = 5  # times the limits: Triton's interpreter on a busy machine says nothing of a GPU


def main() -> int:
    parser = argparse.ArgumentParser("make gpu-record", description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("docs/benchmarks"), metavar="DIR")
    parser.add_argument("--kit", type=Path, default=Path("gpu-kit"), metavar="DIR", help="what make gpu-kit gathered")
    parser.add_argument("--data", type=Path, metavar="DIR", help="the gate's data set, with its model.pt")
    parser.add_argument("--scratch", type=Path, default=Path(".gpu-record"), metavar="DIR", help="on PYTHONPATH")
    parser.add_argument("--only", nargs="+", choices=[step.name for step in STEPS], help="these steps alone")
    parser.add_argument("--rehearse", action="store_true", help="tiny sizes on the CPU, in Triton's interpreter")
    given = parser.parse_args()
    given.output.mkdir(parents=True, exist_ok=True)
    steps = [step for step in STEPS if not given.only or step.name in given.only]
    base = _new_name(given.output, "gpu-record-rehearsal" if given.rehearse else "gpu-record")
    record = Record(base, steps, given.rehearse)
    scratch = given.scratch.resolve()
    scratch.mkdir(parents=True, exist_ok=True)
    unpack_missing(given.kit, scratch)
    data = given.data.resolve() if given.data else None
    asked = Asked(given.kit.resolve(), data, scratch, record.json_file.resolve(), given.rehearse)
    signal.signal(signal.SIGTERM, _stop)
    patience = _REHEARSAL_PATIENCE if given.rehearse else 1
    ends = time.monotonic() + TOTAL_SECONDS * patience
    for step in steps:
        print(f"{step.title} … ", end="", flush=True)
        _run(step, replace(asked, ends=min(ends, time.monotonic() + step.seconds * patience)), record)
        print(record.line(step), flush=True)
    record.finish()
    print(f"\n{record.page_file}\n{record.json_file}")
    return 1 if record.has_failed() else 0


def _run(step: Step, asked: Asked, record: Record) -> None:
    rows, log = (asked.scratch / f"{step.name}.{kind}" for kind in ("json", "out"))
    rows.unlink(missing_ok=True)
    environment = {**os.environ, "PYTHONUNBUFFERED": "1", "PYTHONFAULTHANDLER": "1"}
    # Such a machine's user may have no home, and platformdirs, which finds it, may not have fitted into the kit.
    environment.setdefault("CAAN_CACHE", str(asked.scratch / "cache"))
    if asked.rehearse:
        environment["TRITON_INTERPRET"] = "1"
    command = [sys.executable, "-m", f"{__package__}.run_step", step.name, str(rows), asked.as_json()]
    started = time.monotonic()
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
        )
    try:
        while process.poll() is None and time.monotonic() < asked.ends:
            time.sleep(_LOOK_EVERY)
            record.update(step, read_json(rows), time.monotonic() - started)
    finally:  # however this ends, by Ctrl-C too
        in_time = process.poll() is not None
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        code = process.wait()
        found = read_json(rows)
        if not found.get("status"):
            reason = (
                f"its process ended with code {code}" if in_time else f"ended after {time.monotonic() - started:.0f} s"
            )
            found |= {"status": FAILED if in_time else TIMED_OUT, "reason": reason}
        record.update(step, found, time.monotonic() - started)
        record.append_log(step, log)


def _new_name(folder: Path, what: str) -> Path:
    """A name without its ending that no earlier record has."""
    name = f"{datetime.now():%Y-%m-%d}-{what}"
    names = (folder / (name if n == 1 else f"{name}-{n}") for n in count(1))
    return next(base for base in names if not base.with_name(f"{base.name}.json").exists())


def _stop(number: int, frame: object) -> NoReturn:
    raise SystemExit(128 + number)


if __name__ == "__main__":
    sys.exit(main())
