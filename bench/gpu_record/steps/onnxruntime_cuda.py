"""ONNX Runtime's CUDA provider, from the kit's wheel onnxruntime-gpu: whether it loads and scores as the CPU does."""

from __future__ import annotations

import time
from typing import cast

import numpy as np

from ....errors import CaanError, MissingError
from ..kit import use_wheels
from ..kit_model import kit_bundle, random_inputs
from ..plan import Put, StepSettings

LIMITS = {"fp32": 1e-4, "fp16": 1e-2}


def run(settings: StepSettings, put: Put) -> None:
    """One row for each precision. Raises MissingError if there is no CUDA provider."""
    lacking = None
    try:
        put("wheels", {"": ", ".join(use_wheels(settings, "onnxruntime_gpu"))})
    except MissingError as error:
        lacking = error  # the machine's own onnxruntime may have it
    from ...._onnxruntime import onnxruntime
    from ....runtime import Retriever
    from ....runtime.choices import Device, Precision

    providers = onnxruntime().get_available_providers()
    put("onnxruntime", {"": f"{onnxruntime().__version__}: {', '.join(providers)}"})
    if "CUDAExecutionProvider" not in providers and not settings.rehearse:
        raise lacking or MissingError("the wheel has no CUDA provider")

    bundle = kit_bundle(settings)
    graphs = Retriever.open(bundle, "onnxruntime", device="cpu")
    features, captions = random_inputs(settings, graphs)
    expected = graphs.score_dataset(features, captions)
    for precision, allowed in LIMITS.items():
        try:
            retriever = Retriever.open(
                bundle, "onnxruntime", cast(Precision, precision), device=cast(Device, settings.device)
            )
            gallery = retriever.encode_images(features)
            retriever.score_matrix(gallery, captions)
            start = time.perf_counter()
            scores = retriever.score_matrix(gallery, captions)
            rate = scores.size / (time.perf_counter() - start)
        except CaanError as error:
            put(precision, {"ok": False, "": str(error)})
        else:
            worst = float(np.abs(scores - expected).max())
            put(precision, {"ok": worst <= allowed, "max |Δ score|": worst, "allowed": allowed, "pairs/s": rate})
    if lacking is not None and settings.rehearse:
        raise lacking
