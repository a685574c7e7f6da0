"""The kit's trained model and data set, for the steps that need one."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from ...accuracy.gate import DEFAULT_LIMITS, AccuracyGate
from ...accuracy.reference_scores import PYTORCH, checkpoint_of
from ...accuracy.workload import Workload, data_workload, random_workload
from ...bundle import open_bundle
from ...errors import MissingError
from ...runtime import Retriever
from ...runtime.choices import Device
from .plan import Row, StepSettings

BUNDLE, DATA, REFERENCE = "model.caan", "data", "reference.npy"


def kit_bundle(settings: StepSettings) -> Path:
    """The kit's bundle. Raises MissingError if there is none."""
    bundle = settings.kit / BUNDLE
    if not bundle.is_dir():
        raise MissingError(f"there is no {BUNDLE} in {settings.kit}; make one where caan is installed: make gpu-kit")
    return bundle


def random_inputs(settings: StepSettings, graphs: Retriever) -> tuple[NDArray[np.floating], list[Any]]:
    """Random features and captions of a model's sizes."""
    workload = random_workload(graphs.backend.model.config, list(graphs.backend.model.vocabulary.words)[4:])
    images, captions = (2, 4) if settings.rehearse else (32, 100)
    return workload.features[:images], list(workload.captions[:captions])


class Gates:
    """The gate of each precision, on the kit's data set or on the one given."""

    def __init__(self, settings: StepSettings) -> None:
        """Raises MissingError if there is no data set, CheckpointError if its model.pt is not the bundle's."""
        self.bundle = kit_bundle(settings)
        folder = settings.data or settings.kit / DATA
        if not folder.is_dir():
            raise MissingError(f"there is no data set at {folder}; name one: make gpu-record FLICKR8K=DIR")
        self.workload = data_workload(folder, "test")
        kept = folder / REFERENCE
        self.reference = np.load(kept) if kept.is_file() else _reference(self.bundle, folder, self.workload, settings)
        truth = self.workload.image_of_caption
        if settings.rehearse and truth is not None:
            images = np.arange(2)
            captions = np.flatnonzero(np.isin(truth, images))
            self.reference = self.reference[np.ix_(images, captions)]
            self.workload = self.workload.subset(images)

    def row(self, precision: str, backend: str, device: str) -> Row:
        """A backend's R@K against PyTorch's."""
        gate = AccuracyGate(self.workload, self.reference, PYTORCH, DEFAULT_LIMITS[precision])
        check = gate.check(self.bundle, precision, backend, device)
        row: Row = {"ok": check["passed"], "data": check["data"], "": check["summary"]}
        return row | {name: check["metrics"][name] for name in ("rsum",) if "metrics" in check}


def _reference(bundle: Path, folder: Path, workload: Workload, settings: StepSettings) -> NDArray[np.float32]:
    """PyTorch's FP32 scores on the GPU, without TF32: a data set of 5 million pairs takes seconds there."""
    import torch

    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    checkpoint = checkpoint_of(open_bundle(bundle), folder / "model.pt")
    retriever = Retriever.open(checkpoint, "torch", device=cast(Device, settings.device))
    return workload.scores(retriever)
