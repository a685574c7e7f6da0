"""Large galleries, drawn, indexed and searched: `make bench-large`, or with IMAGES=1000000.

Everything made and measured is kept in --work: an interrupted run resumes, and a second one only measures again what
--again names. The record is `docs/benchmarks/DATE-cpu-large.json`; with another number of scenes than 100,000,
`DATE-cpu-large-N.json`.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

from ..._files import atomic_file
from ..._machine import chosen_threads, describe_machine
from ..._text import json_text
from ...errors import CaanError
from . import steps
from .prepared import SMALL, estimate, prepare
from .table import large_table

_SCENES = 100_000


def main() -> int:
    parser = argparse.ArgumentParser("python -m caan.bench.large", description=__doc__)
    parser.add_argument("--images", type=int, default=_SCENES, metavar="N")
    parser.add_argument(
        "--work", type=Path, default=Path(".bench-large"), metavar="DIR", help="galleries and results so far"
    )
    parser.add_argument(
        "--demo", type=Path, default=Path("demo"), metavar="DIR", help="of make demo, for its trained model"
    )
    parser.add_argument("--output", type=Path, default=Path("docs/benchmarks"), metavar="DIR")
    parser.add_argument("--again", nargs="+", default=[], metavar="STEP", help="measure these steps again")
    options = parser.parse_args()
    if options.images < 1:
        parser.error("--images takes 1 or more")
    try:
        print(f"{estimate(options.images)}; interrupt and rerun at will", file=sys.stderr)
        record = run(
            options.images, options.work, options.demo, options.again, lambda line: print(line, file=sys.stderr)
        )
    except CaanError as error:
        print(f"Error: {error}", file=sys.stderr)
        return error.exit_code
    ending = "" if options.images == _SCENES else f"-{options.images}"
    target = options.output / f"{datetime.now():%Y-%m-%d}-cpu-large{ending}.json"
    _write(target, record)
    print(f"{record['machine']}\n\n{large_table(record)}\n\n{target}")
    return 0


def run(scenes: int, work: Path, demo: Path, again: list[str], progress: Callable[[str], None]) -> dict[str, Any]:
    """Prepare and measure; the record, which is also in `work` after every step."""
    prepared = prepare(work, scenes, demo, progress)
    measured: dict[str, Callable[[], Any]] = {
        f"recall {count}": lambda count=count: steps.recall(prepared, count, progress)  # type: ignore[misc]
        for count in sorted({min(SMALL, scenes), scenes})
    }
    measured |= {
        "scanning": lambda: steps.scanning(chosen_threads()),
        "opening": lambda: steps.opening(prepared.images[scenes]),
        "cold": lambda: steps.cold(prepared, scenes),
        "appending": lambda: steps.appending(prepared, scenes),
        "sizes": lambda: {
            path.name: steps.sizes(path) for path in (prepared.images[scenes], prepared.captions[scenes])
        },
    }
    if unknown := set(again) - set(measured):
        raise CaanError(f"there is no step {min(unknown)}; steps: {', '.join(measured)}")
    so_far = work / f"record-{scenes}.json"
    record: dict[str, Any] = {"machine": describe_machine(), "scenes": scenes, "steps": {}}
    if so_far.exists():
        record["steps"] = json.loads(so_far.read_text(encoding="utf-8"))["steps"]
    for name, measure in measured.items():
        if name not in record["steps"] or name in again:
            progress(f"measuring: {name}")
            record["steps"][name] = measure()
            _write(so_far, record)
    return record


def _write(path: Path, record: dict[str, Any]) -> None:
    with atomic_file(path) as temporary:
        temporary.write_text(json_text(record, indent=1) + "\n", encoding="ascii")


if __name__ == "__main__":
    sys.exit(main())
