"""The rows of a bench: what each ran, and its measurements."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import CaanError
from ..metrics import Parity, RetrievalMetrics
from .pair_work import PairWork
from .retrieval import RetrievalSpeed
from .worker import RowSpec, TunedShape

_KEPT = ("peak_bytes", "tile_bytes", "score_error")  # kept from an interrupted bench, beside the structured ones


@dataclass
class Row:
    """One row; without numbers and with a reason if it could not run. Seconds; medians, percentiles over rounds."""

    spec: RowSpec
    reason: str | None = None
    error: CaanError | None = None
    pairs_per_second: float | None = None
    text_query: dict[str, float] | None = None  # p50, p95, p99 of one caption over 1,000 images
    image_query: dict[str, float] | None = None  # p50, p95, p99 of one image over 5,000 captions
    images_per_second: float | None = None
    captions_per_second: float | None = None
    peak_bytes: int | None = None
    tile_bytes: int | None = None
    tuning: dict[str, TunedShape] | None = None  # "query" and "pairs"
    pair_work: PairWork | None = None
    score_error: float | None = None  # of the compiled scorer: largest difference from float64
    retrieval: RetrievalSpeed | None = None
    metrics: RetrievalMetrics | None = None
    parity: Parity | None = None
    scores: NDArray[np.float32] | None = None  # (images, captions)
    rounds: list[dict[str, Any]] = field(default_factory=list)

    @property
    def name(self) -> str:
        """As "onnxruntime fp16 cuda"; the CPU is not mentioned."""
        device = "" if self.spec.device == "cpu" else f" {self.spec.device}"
        return f"{self.spec.label} {self.spec.precision}{device}"

    def as_measured(self) -> dict[str, Any]:
        """The JSON that an interrupted bench keeps."""
        full = self.as_dict()
        return {key: full[key] for key in (*_KEPT, "tuning", "pair_work", "rounds")}

    def take_measured(self, saved: dict[str, Any]) -> None:
        for key in _KEPT:
            setattr(self, key, saved[key])
        if saved["tuning"]:
            self.tuning = {shape: TunedShape(**tuned) for shape, tuned in saved["tuning"].items()}
        self.pair_work = saved["pair_work"] and PairWork(**saved["pair_work"])
        self.rounds = saved["rounds"]

    def as_dict(self) -> dict[str, Any]:
        s = self.spec
        return {
            "label": s.label,
            "backend": s.backend,
            "precision": s.precision,
            "device": s.device,
            "reason": self.reason,
            "pairs_per_second": self.pairs_per_second,
            "text_query_seconds": self.text_query,
            "image_query_seconds": self.image_query,
            "images_per_second": self.images_per_second,
            "captions_per_second": self.captions_per_second,
            "peak_bytes": self.peak_bytes,
            "tile_bytes": self.tile_bytes,
            "tuning": self.tuning and {shape: asdict(tuned) for shape, tuned in self.tuning.items()},
            "pair_work": self.pair_work and asdict(self.pair_work),
            "score_error": self.score_error,
            "retrieval": self.retrieval and self.retrieval.as_dict(),
            "metrics": self.metrics and self.metrics.as_dict(),
            "parity": self.parity and asdict(self.parity),
            "rounds": self.rounds,
        }
