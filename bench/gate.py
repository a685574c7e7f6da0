"""The accuracy gate of an export: ONNX Runtime and PyTorch on the same data set."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from .._machine import describe_machine
from ..errors import GateError
from ..metrics import parity, retrieval_metrics
from ..runtime import Retriever
from .workload import data_workload

# With scores this close, a query's R@K can differ only where two scores lie within twice this of each other: a tie.
FP32_MAX_ABS = 1e-4


def fp32_gate(data: Path, split: str, checkpoint: Path) -> Callable[[Path], dict[str, Any]]:
    """A gate for `export_checkpoint`: score a data set's split with the bundle and with PyTorch, and compare.

    The data set is opened now, so that wrong input is found before anything is exported. The gate raises GateError
    if a score differs by more than 1e-4, and otherwise returns what the manifest records.
    """
    dataset = data_workload(data, split)
    truth = dataset.image_of_caption
    assert truth is not None  # only random inputs have none

    def gate(bundle: Path) -> dict[str, Any]:
        scores = {}
        for backend, path in (("torch", checkpoint), ("onnxruntime", bundle)):
            retriever = Retriever.open(path, backend, device="cpu")
            scores[backend] = retriever.score_dataset(dataset.features, dataset.captions, progress=True)
        found = retrieval_metrics(scores["onnxruntime"], truth)
        expected = retrieval_metrics(scores["torch"], truth)
        difference = parity(scores["onnxruntime"], scores["torch"], truth)
        name = dataset.description
        if not difference.max_abs <= FP32_MAX_ABS:
            raise GateError(
                f"on {name} ONNX Runtime's scores differ from PyTorch's by {difference.max_abs:.2g} (allowed:"
                f" {FP32_MAX_ABS:.0e}), rsum {found.rsum:.2f} against {expected.rsum:.2f}; no bundle was written"
            )
        return {
            "what": "ONNX Runtime against PyTorch on a data set",
            "data": name,
            "device": describe_machine(),
            "onnxruntime": found.as_dict(),
            "pytorch": expected.as_dict(),
            "parity": asdict(difference),
            "allowed": {"max_abs": FP32_MAX_ABS},
            "summary": f"rsum {found.rsum:.2f}, PyTorch's {expected.rsum:.2f}; scores differ by at most"
            f" {difference.max_abs:.1e}",
        }

    return gate
