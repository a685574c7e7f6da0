"""CAAN's scorer for CPUs, compiled: states in, scores out (cpp/kernels). `caan.runtime` uses it as backend "native"."""

from ._native import Scorer, has_native_bfloat16, measure_limits

__all__ = ["STATE_TYPES", "Scorer", "has_native_bfloat16", "measure_limits"]

# How states may be stored that a Scorer reads.
STATE_TYPES = ("float16", "float32", "bfloat16", "int8")
