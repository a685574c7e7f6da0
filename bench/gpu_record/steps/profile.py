"""The kernel's bottlenecks by Nsight Compute: the two fastest choices of blocks in bfloat16."""

from __future__ import annotations

import csv
import shutil
import subprocess
import sys
from typing import Any

from ....errors import CaanError, MissingError
from ..plan import Put, StepSettings
from ..record import read_json

_DTYPE = "bfloat16"
_SECTIONS = ("SpeedOfLight", "ComputeWorkloadAnalysis", "LaunchStats", "Occupancy", "SchedulerStats", "WarpStateStats")
_METRICS = (
    "Duration", "Compute (SM) Throughput", "Memory Throughput", "DRAM Throughput", "L1/TEX Cache Throughput",
    "L2 Cache Throughput", "SM Busy", "Issue Slots Busy", "Executed Ipc Active", "Registers Per Thread",
    "Dynamic Shared Memory Per Block", "Block Limit Registers", "Block Limit Shared Mem", "Theoretical Occupancy",
    "Achieved Occupancy", "Eligible Warps Per Scheduler", "No Eligible", "Warp Cycles Per Issued Instruction",
)  # fmt: skip


def run(settings: StepSettings, put: Put) -> None:
    """One row for each metric, a column for each choice. Raises MissingError without ncu."""
    tool = shutil.which("ncu")
    table: dict[str, dict[str, str]] = {}
    for choice, name in _fastest(settings)[: 1 if settings.rehearse else 2]:
        launch = [sys.executable, "-m", "caan.bench.gpu_kernel", "--launch", _DTYPE, str(choice)]
        launch += ["--rehearse"] * settings.rehearse
        profiler = ["ncu", "--clock-control", "none", "--csv", "--page", "details", "--kernel-name", "regex:score"]
        profiler += ["--launch-skip", "1", "--launch-count", "1"]
        profiler += [argument for section in _SECTIONS for argument in ("--section", section)]
        command = [*(profiler if tool else []), *launch]
        if tool is None and not settings.rehearse:
            raise MissingError("Nsight Compute's ncu is not on PATH")
        done = subprocess.run(command, capture_output=True, text=True, timeout=max(1.0, settings.seconds_left - 1))
        print(done.stdout, done.stderr, sep="\n", flush=True)
        metrics = _metrics(done.stdout)
        if not metrics and (tool or done.returncode):
            lines = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
            errors = [line for line in lines if "ERR" in line.upper()] or lines[-1:]
            raise CaanError(f"exit code {done.returncode}: {' '.join(errors)[:300] or 'no message'}")
        for metric in _METRICS:
            if metric in metrics:
                table.setdefault(metric, {})[name] = metrics[metric]
                put(metric, dict(table[metric]))
    if tool is None:
        raise MissingError("Nsight Compute's ncu is not on PATH; its programs were run without it")


def _fastest(settings: StepSettings) -> list[tuple[int, str]]:
    """(index, name) of two choices: the fastest of the step `speed`, or the first."""
    rows: dict[str, Any] = read_json(settings.record).get("steps", {}).get("speed", {}).get("rows", {})
    timed = [
        (row["seconds"], row["choice"], name)
        for name, row in rows.items()
        if row.get("dtype") == _DTYPE and row.get("ok")
    ]
    best = [(choice, name.removeprefix(f"{_DTYPE} kernel, ")) for _, choice, name in sorted(timed)[:2]]
    return best or [(0, "choice 0"), (1, "choice 1")]


def _metrics(output: str) -> dict[str, str]:
    """{name: value with its unit} from the tables that ncu prints after the program's own output."""
    lines = output.splitlines()
    start = next((n for n, line in enumerate(lines) if line.startswith('"ID"')), len(lines))
    rows = csv.DictReader(lines[start:])
    return {
        row["Metric Name"]: f"{row['Metric Value']} {row['Metric Unit']}".strip()
        for row in rows
        if row.get("Metric Name")
    }
