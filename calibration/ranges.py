"""The range of an INT8 activation: the |x| of a tensor that maps to 127, chosen from observed values.

Tensors are read in two passes, for the maximum, then for a histogram of |x| up to it: the result does not depend on the
values' batches or order, and no activation is stored. Batches may have different shapes, which ONNX Runtime's histogram
calibrators reject.

Values beyond the range are clipped; a smaller range rounds the rest more finely. The methods trade these off:

min-max      the largest |x|: nothing is clipped
percentile   clips the largest 0.01 % of the values (Wu et al., "Integer Quantization for Deep Learning Inference",
             arXiv:2004.09602)
mse          the least squared error of rounding and clipping together (Nagel et al., "A White Paper on Neural Network
             Quantization", arXiv:2106.08295, section 3.1)
entropy      the least information loss: Kullback-Leibler divergence of the values' distribution before and after
             (Migacz, "8-bit Inference with TensorRT", GTC 2017: TensorRT's classic calibrator)

Entropy considers how often a value occurs, not its size. Designed for the tails of a CNN's activations, it clips rare
but decisive values: the ones on the diagonal of Su, the peaks of an attention.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError, InputError
from .observe import Batch

LARGEST = 127  # of symmetric INT8: -128 is not used, so that x and -x quantise alike
# The rest of the graph is float16: steps (range / 127) below its smallest normal number, 2⁻¹⁴, gain nothing.
MIN_RANGE = LARGEST * 2.0**-14
PERCENTILE = 0.9999

BINS = 1 << 15
# Migacz's sizes: 2,048 bins; candidates keep 128 or more and merge them into 128 levels.
_ENTROPY_BINS, _LEVELS = 2048, 128
# Thresholds for mse: from all bins downwards in steps of 2 %, while a rounding step is at least 4 bins.
_MSE_OCTAVES, _MSE_PER_OCTAVE = 6, 32

Counts = NDArray[np.int64]


def find_ranges(batches: Callable[[], Iterable[Batch]], method: str) -> dict[str, float]:
    """Tensor → its range, the positive |x| that maps to 127.

    batches() starts a pass over the observed values, {tensor: float array of any shape} per batch; it is called once or
    twice and must yield the same values each time. A range is at most the largest observed |x|, but at least MIN_RANGE
    (0.0078), also for a tensor of zeros. Raises InputError for an unknown method, DataError, naming the tensor, for NaN
    or infinity.
    """
    check_method(method)
    maxima = _maxima(batches())
    if method == "min-max":
        return {name: max(maximum, MIN_RANGE) for name, maximum in maxima.items()}
    # At the smallest range there is nothing to choose, and the bin width could be 0.
    ranges = {name: MIN_RANGE for name, maximum in maxima.items() if maximum <= MIN_RANGE}
    choose = _THRESHOLDS[method]
    histograms = _histograms(batches(), {name: m for name, m in maxima.items() if name not in ranges})
    for name, counts in histograms.items():
        ranges[name] = max(maxima[name] * choose(counts) / BINS, MIN_RANGE)
    return {name: ranges[name] for name in maxima}


def check_method(method: str) -> None:
    """Raise InputError, listing the methods, for an unknown one."""
    if method not in METHODS:
        raise InputError(f"unknown calibration method '{method}'; known: {', '.join(METHODS)}")


def passes(method: str) -> int:
    """How often a method reads the observed values."""
    return 1 if method == "min-max" else 2


def _maxima(batches: Iterable[Batch]) -> dict[str, float]:
    maxima: dict[str, float] = {}
    for batch in batches:
        for name, values in batch.items():
            maximum = float(np.maximum(values.max(initial=0.0), -values.min(initial=0.0)))
            if not np.isfinite(maximum):
                raise DataError(
                    f"the tensor '{name}' holds NaN or infinity on the calibration data; is a feature of it huge?"
                )
            maxima[name] = max(maxima.get(name, 0.0), maximum)
    return maxima


def _histograms(batches: Iterable[Batch], maxima: dict[str, float]) -> dict[str, Counts]:
    """Tensor → counts (BINS,) of |x| in equal bins from 0 to its maximum."""
    histograms = {name: np.zeros(BINS, np.int64) for name in maxima}
    for batch in batches:
        for name, counts in histograms.items():
            if name in batch:
                counts += np.histogram(np.abs(batch[name]), BINS, (0.0, maxima[name]))[0]
    return histograms


def _percentile(counts: Counts) -> float:
    """counts (BINS,) → the number of bins with 99.99 % of the values."""
    reached = np.cumsum(counts)
    return float(np.searchsorted(reached, PERCENTILE * reached[-1]) + 1)


def _least_squares(counts: Counts) -> float:
    """counts (BINS,) → the threshold, in bins, with the least squared error over all values."""
    filled = np.flatnonzero(counts)
    centres, weights = filled + 0.5, counts[filled]  # the spread within a bin adds the same to every error
    thresholds = BINS * 2.0 ** (-np.arange(_MSE_OCTAVES * _MSE_PER_OCTAVE + 1) / _MSE_PER_OCTAVE)

    def error(threshold: float) -> float:
        step = threshold / LARGEST
        rounded = np.minimum(np.rint(centres / step), LARGEST) * step
        return float((weights * (centres - rounded) ** 2).sum())

    return float(min(thresholds, key=error))


def _entropy(counts: Counts) -> float:
    """counts (BINS,) → the threshold, in bins, with the least KL divergence."""
    coarse = counts.reshape(_ENTROPY_BINS, -1).sum(1)
    # Zeros are exact in any range, and many zeros (ReLU) would outweigh all else. Rule from NVIDIA's
    # pytorch-quantization (calib/histogram.py).
    coarse[0] = coarse[1]
    candidates = range(_LEVELS, _ENTROPY_BINS + 1)
    return float(min(candidates, key=lambda bins: _divergence(coarse, bins)) * (BINS // _ENTROPY_BINS))


def _divergence(counts: Counts, bins: int) -> float:
    """KL divergence between the first `bins` bins, with clipped counts added to the last one, and their 128 levels."""
    inside = counts[:bins]
    clipped = inside.astype(np.float64)
    clipped[-1] += counts[bins:].sum()
    # A level spreads its count evenly over its non-empty bins.
    starts = np.arange(_LEVELS) * bins // _LEVELS
    filled = inside > 0
    levels = np.add.reduceat(inside, starts) / np.maximum(np.add.reduceat(filled, starts, dtype=np.int64), 1)
    spread = np.repeat(levels, np.diff(starts, append=bins)) * filled
    seen = clipped > 0
    if (spread[seen] == 0).any():
        return np.inf  # values are clipped into an empty bin
    p, q = clipped[seen] / clipped.sum(), spread[seen] / spread.sum()
    return float((p * np.log(p / q)).sum())


_THRESHOLDS: dict[str, Callable[[Counts], float]] = {
    "entropy": _entropy,
    "percentile": _percentile,
    "mse": _least_squares,
}
METHODS = ("min-max", *_THRESHOLDS)
