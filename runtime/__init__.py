"""The runtime that an application embeds: no PyTorch, just NumPy and a backend."""

from .gallery import Gallery
from .retriever import Hit, Retriever

__all__ = ["Gallery", "Hit", "Retriever"]
