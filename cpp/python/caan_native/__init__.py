"""CAAN's scorer for CPUs, compiled: states in, scores out (cpp/kernels). `caan.runtime` uses it as backend "native"."""

from ._native import Scanner, Scorer, has_native_bfloat16, measure_limits, project, quantize

__all__ = ["STATE_TYPES", "Scanner", "Scorer", "has_native_bfloat16", "measure_limits", "project", "quantize"]

# How states may be stored that a Scorer reads.
STATE_TYPES = ("float16", "float32", "bfloat16", "int8")
