"""CAAN's scorer for CPUs, compiled: states in, scores out (cpp/kernels). `caan.runtime` uses it as backend "native"."""

from ._native import Scanner, Scorer, has_native_bfloat16, measure_limits, project, quantize

__all__ = ["Scanner", "Scorer", "has_native_bfloat16", "measure_limits", "project", "quantize"]
