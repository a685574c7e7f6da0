"""`caan build-engine` as one library call: data, calibration, profiles, gate, then the engines."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from .._files import check_change
from ..accuracy.gate import DEFAULT_LIMITS, AccuracyGate
from ..accuracy.workload import check_dimension, split_workload, spread
from ..bundle import VOCABULARY, Bundle, check_changeable, open_bundle
from ..calibration.calibrate import Calibration, calibrate
from ..data.scan import ScanSplit, open_split
from ..data.vocabulary import Vocabulary
from ..graphs import check_graphs
from .engine_from_bundle import EngineJob, EngineReport, build_engine
from .plan_from_graph import BuildOptions
from .profiles import Statistics, default_profiles, parse_profiles, profile_table
from .targets import open_target

# Images of a training split that the gate scores, with their captions: all pairs could take days.
_HELD_OUT_IMAGES = 500

Progress = Callable[[str], None]


@dataclass(frozen=True)
class EngineRequest:
    """Options of a build, named as the command's options."""

    precision: str  # fp32, fp16 or int8
    target: str | None = None  # None: tensorrt if it and a GPU are available, else tensorrt-rtx
    options: BuildOptions = field(default_factory=BuildOptions)
    profiles: Sequence[str] = ()  # as in `parse_profiles`; replace a graph's defaults
    keep_fp32: Sequence[str] = ()
    data: Path | None = None  # for the gate
    split: str = "test"
    limit: int | None = None  # images of the split
    checkpoint: Path | None = None
    gate_rsum: float | None = None
    gate_score: float | None = None
    keep_failed: bool = False
    calibration_data: Path | None = None
    calibration_split: str = "train"
    calibration_method: str = "min-max"
    seed: int = 0
    auto: bool = False  # INT8: return nodes to FP16 until the gate passes
    sensitivity: bool = False  # INT8: measure each node's cost


def run_engine_job(
    folder: Path, request: EngineRequest, progress: Progress = lambda message: None, *, bars: bool = False
) -> EngineReport:
    """Add a precision and its engines to a bundle; `bars` shows progress bars on standard error.

    The report's `failure` is a failed gate that `keep_failed` kept. Raises InputError for options that the target or
    the model does not support, MissingError for an unavailable target, DataError for data that doesn't fit the model,
    and as `build_engine`. Wrong options are rejected before minutes of calibration and gate.
    """
    bundle = open_bundle(folder)
    check_changeable(bundle)
    check_change(folder, [])
    check_graphs(bundle)
    target = open_target(request.target)
    options = replace(
        request.options, compute_capabilities=target.check_capabilities(request.options.compute_capabilities)
    )
    options.check(target)
    config, limits = bundle.config, bundle.manifest["limits"]
    custom = parse_profiles(request.profiles, config, limits)
    dataset = _open(bundle, request.data, request.split)
    calibration_set = _open(bundle, request.calibration_data, request.calibration_split)
    profiles = default_profiles(config, limits, _statistics(bundle, dataset or calibration_set)) | custom
    calibration = None
    if request.precision == "int8" and calibration_set is not None:
        calibration = calibrate(
            bundle, calibration_set, method=request.calibration_method, seed=request.seed, progress=bars
        )
    gate = _gate(bundle, request, dataset, calibration_set, calibration, progress)
    progress(profile_table(profiles))
    job = EngineJob(
        request.precision,
        target,
        profiles,
        options,
        request.keep_fp32,
        auto=request.auto,
        sensitivity=request.sensitivity,
        keep_failed=request.keep_failed,
    )
    return build_engine(folder, job, gate=gate, calibration=calibration, progress=progress)


def _open(bundle: Bundle, folder: Path | None, split: str) -> ScanSplit | None:
    if folder is None:
        return None
    dataset = open_split(folder, split)
    check_dimension(dataset.features, bundle.config, folder)
    return dataset


def _statistics(bundle: Bundle, dataset: ScanSplit | None) -> Statistics:
    if dataset is None:
        return Statistics.assumed(bundle.config)
    vocabulary = Vocabulary.load(bundle.folder / VOCABULARY)
    return Statistics.of_split(dataset, np.array([len(vocabulary.encode(caption)) for caption in dataset.captions]))


def _gate(
    bundle: Bundle,
    request: EngineRequest,
    dataset: ScanSplit | None,
    calibration_set: ScanSplit | None,
    calibration: Calibration | None,
    progress: Progress,
) -> AccuracyGate | None:
    """The gate on the data, else on another split of the calibration data, else on its held-out images, else none."""
    limits = DEFAULT_LIMITS[request.precision]
    if request.gate_rsum is not None:
        limits = replace(limits, delta_rsum=request.gate_rsum)
    if request.gate_score is not None:
        limits = replace(limits, max_abs=request.gate_score)
    if dataset is None and calibration_set is not None:
        dataset = _other_split(bundle, calibration_set, progress)
    if dataset is not None:
        workload = split_workload(dataset, request.limit)
        progress(f"{workload.description}: {workload.layout}")
    elif calibration is not None and calibration_set is not None:
        held_out = spread(calibration.held_out, min(_HELD_OUT_IMAGES, request.limit or _HELD_OUT_IMAGES))
        workload = split_workload(calibration_set).subset(held_out)
    else:
        return None
    return AccuracyGate.open(workload, bundle, request.checkpoint, limits, progress)


def _other_split(bundle: Bundle, calibration_set: ScanSplit, progress: Progress) -> ScanSplit | None:
    """The test or dev split beside the calibration split: images the model was not trained on."""
    for split in ("test", "dev", "val"):
        # testall holds the images of test
        if split not in calibration_set.split and (calibration_set.folder / f"{split}_ims.npy").is_file():
            progress(f"the gate runs on the split {split} of {calibration_set.folder}; --limit N takes fewer images")
            return _open(bundle, calibration_set.folder, split)
    return None
