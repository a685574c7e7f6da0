"""The runtime that an application embeds: no PyTorch, just NumPy and a backend."""

from .batching import BatchingRetriever
from .explain import Explanation
from .gallery import Gallery
from .retriever import Hit, Retriever
from .serving_metrics import ServingMetrics

__all__ = ["BatchingRetriever", "Explanation", "Gallery", "Hit", "Retriever", "ServingMetrics"]
