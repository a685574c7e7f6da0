"""ONNX Runtime's CUDA provider, from the kit's wheel onnxruntime-gpu: does it load, and score as the CPU does."""

from __future__ import annotations

import time
from typing import cast

import numpy as np

from ....errors import CaanError, MissingError
from ..kit import use_wheels
from ..kit_model import kit_bundle, some_inputs
from ..plan import Asked, Put

LIMITS = {"fp32": 1e-4, "fp16": 1e-2}


def run(asked: Asked, put: Put) -> None:
    """One row for each precision. Raises MissingError where there is no CUDA provider to be had."""
    lacking = None
    try:
        put("wheels", {"": ", ".join(use_wheels(asked, "onnxruntime_gpu"))})
    except MissingError as error:
        lacking = error  # the machine's own may have it
    from ...._onnxruntime import onnxruntime
    from ....runtime import Retriever
    from ....runtime.choices import Device, Precision

    providers = onnxruntime().get_available_providers()
    put("onnxruntime", {"": f"{onnxruntime().__version__}: {', '.join(providers)}"})
    if "CUDAExecutionProvider" not in providers and not asked.rehearse:
        raise lacking or MissingError("the wheel has no CUDA provider")

    bundle = kit_bundle(asked)
    graphs = Retriever.open(bundle, "onnxruntime", device="cpu")
    features, captions = some_inputs(asked, graphs)
    expected = graphs.score_dataset(features, captions)
    for precision, allowed in LIMITS.items():
        try:
            retriever = Retriever.open(
                bundle, "onnxruntime", cast(Precision, precision), device=cast(Device, asked.device)
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
    if lacking is not None and asked.rehearse:
        raise lacking
