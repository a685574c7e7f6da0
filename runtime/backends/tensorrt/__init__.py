"""A bundle's TensorRT engines on an NVIDIA GPU.

Experimental: tested with stand-ins, has run on no GPU yet.
"""
