"""The runtime an application embeds: no PyTorch, just NumPy and a backend.

It logs through Python's `logging` and prints nothing itself. `logging.basicConfig(level="INFO")` shows everything,
`logging.getLogger("caan").setLevel("WARNING")` only what needs attention. Loggers are named after the modules:

caan.runtime                    INFO: a bundle was opened, with backend, precision and device, and why `auto` chose
                                that backend; tuning started or ended, with its choice. WARNING: an engine was skipped,
                                and why; a tuning may be wrong
caan.runtime.galleries          INFO: a gallery was opened, saved or compacted, or items were deleted
caan.runtime.index              INFO: items were written or appended
caan.runtime.serving            WARNING: refused, late or slow (`slow_ms`) requests; ERROR: a request's search
                                failed, with a traceback unless the error is one of caan's; CRITICAL: a thread died.
                                At most one line of each kind per ten seconds

Problems with the caller's input, such as an unknown word or a missed accuracy gate, are CaanWarnings, not log lines;
`logging.captureWarnings(True)` sends them to the log too.
"""

import logging

from .explain import Explanation
from .galleries.gallery import Gallery
from .retriever import Hit, Retriever
from .serving.batching import BatchingRetriever
from .serving.metrics import ServingMetrics

__all__ = ["BatchingRetriever", "Explanation", "Gallery", "Hit", "Retriever", "ServingMetrics"]

# Without any handler, Python would print warnings to stderr.
logging.getLogger("caan").addHandler(logging.NullHandler())
