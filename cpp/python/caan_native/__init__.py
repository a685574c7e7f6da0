"""CAAN's scorer for CPUs, compiled: states in, scores out (cpp/kernels). `caan.runtime` uses it as backend "native"."""

from ._native import Scorer, has_native_bfloat16, measure_limits

__all__ = ["Scorer", "has_native_bfloat16", "measure_limits"]
