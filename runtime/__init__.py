"""The runtime that an application embeds: no PyTorch, just NumPy and a backend.

It logs by Python's `logging` and prints nothing itself: `logging.basicConfig(level="INFO")` shows it all, and
`logging.getLogger("caan").setLevel("WARNING")` what needs attention. Loggers are named after the modules:

caan.runtime                    INFO: a bundle was opened, by which backend, precision and device, and why `auto` took
                                that one; tuning started and ended, with what it chose. WARNING: an engine was skipped,
                                and why; a tuning that may be wrong
caan.runtime.galleries          INFO: a gallery was opened, saved, compacted, or lost items
caan.runtime.index              INFO: items were written or appended
caan.runtime.serving            WARNING: requests that were refused, late or slow (`slow_ms`); ERROR: a request's search
                                failed, with a traceback unless the error is one of caan's; CRITICAL: a thread died.
                                A flood makes one line of a kind in ten seconds

What concerns the caller's input, as an unknown word or a missed accuracy gate, is a CaanWarning as before, not a log
line: `logging.captureWarnings(True)` puts those into the log too.
"""

import logging

from .explain import Explanation
from .galleries.gallery import Gallery
from .retriever import Hit, Retriever
from .serving.batching import BatchingRetriever
from .serving.metrics import ServingMetrics

__all__ = ["BatchingRetriever", "Explanation", "Gallery", "Hit", "Retriever", "ServingMetrics"]

# Without a handler of the application's, Python would print warnings to stderr.
logging.getLogger("caan").addHandler(logging.NullHandler())
