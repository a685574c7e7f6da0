"""The runtime that an application embeds: no PyTorch, just NumPy and a backend."""

from .explain import Explanation
from .galleries.gallery import Gallery
from .retriever import Hit, Retriever
from .serving.batching import BatchingRetriever
from .serving.metrics import ServingMetrics

__all__ = ["BatchingRetriever", "Explanation", "Gallery", "Hit", "Retriever", "ServingMetrics"]
