"""The record's steps in order, and their settings."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

Row = dict[str, Any]
Put = Callable[[str, Row], None]
"""put(name, row): a step's result, written to disk at once; a row with `ok` false is a failed check."""


class Step(NamedTuple):
    """One file in `steps/`, with a function `run(settings, put)`."""

    name: str
    title: str
    seconds: float  # time limit
    needs_gpu: bool = True


# 8 minutes in all; the last step gets the time left by the others.
STEPS = (
    Step("machine", "The machine", 20, needs_gpu=False),
    Step("compile", "Compiling every kernel at once", 80),
    Step("kernel", "The kernel's scores against float64, the golden cases and ONNX Runtime", 45),
    Step("speed", "The kernel's speed: every choice of blocks, and PyTorch", 130),
    Step("profile", "Nsight Compute: the two fastest choices", 45),
    Step("gate", "R@K of the kernel in half precisions", 60),
    Step("onnxruntime_cuda", "ONNX Runtime's CUDA provider", 30),
    Step("tensorrt_rtx", "TensorRT for RTX: plans built ahead", 30),
    Step("gpu_tests", "The tests that need a GPU", 120),
)
TOTAL_SECONDS = 480.0


@dataclass(frozen=True)
class StepSettings:
    """Settings of the steps."""

    kit: Path  # the folder of `make gpu-kit`; may be missing
    data: Path | None  # a data set in SCAN's format for the gate, instead of the kit's
    scratch: Path  # where a step unpacks files
    record: Path  # the JSON file of the results so far
    rehearse: bool = False  # tiny sizes on the CPU, in Triton's interpreter
    ends: float = 0.0  # the current step's deadline, by time.monotonic()

    @property
    def device(self) -> str:
        return "cpu" if self.rehearse else "cuda"

    @property
    def seconds_left(self) -> float:
        return self.ends - time.monotonic()

    def as_json(self) -> str:
        return json.dumps(asdict(self), default=str)

    @classmethod
    def from_json(cls, text: str) -> StepSettings:
        loaded = cls(**json.loads(text))
        data = Path(loaded.data) if loaded.data else None
        return replace(
            loaded, kit=Path(loaded.kit), data=data, scratch=Path(loaded.scratch), record=Path(loaded.record)
        )
