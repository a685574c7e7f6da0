"""The scorer as one fused kernel on an NVIDIA GPU, written in Triton."""
