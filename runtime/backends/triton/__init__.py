"""The scorer as one fused kernel on an NVIDIA GPU, written in Triton.

Experimental: runs in Triton's interpreter and compiles for four GPU generations, has run on no GPU yet.
"""
