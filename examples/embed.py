"""Search a gallery from several threads at once: python embed.py GALLERY [CAPTION …].

Needs `pip install '.[cpu]'` in a checkout of caan, and a gallery that `caan index` wrote. No PyTorch.
"""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from caan.errors import CaanError, MissingError
from caan.runtime import BatchingRetriever, Gallery, Retriever, ServingMetrics
from caan.runtime.index import bundle_of

CAPTIONS = ["two dogs play in the snow", "a boat on the sea", "three birds fly", "a child with a red ball"]


def main(folder: Path, captions: list[str]) -> None:
    gallery = Gallery.open(folder)
    retriever = Retriever.open(bundle_of(gallery, folder))
    metrics = metrics_if_installed()
    # A batch runs when full or 5 ms after its first request; beyond 64 waiting requests, new ones raise Overloaded.
    with (
        BatchingRetriever(retriever, max_delay_ms=5, max_batch=32, max_queue=64, metrics=metrics) as batching,
        ThreadPoolExecutor(8, thread_name_prefix="request") as threads,
    ):

        def answer(caption: str) -> str:
            """A web application's handler, one thread per request. For asyncio use `asearch`."""
            try:
                hits = batching.search(caption, gallery, 3, clamp=True, timeout=10)
            except CaanError as error:  # a caption without a known word, too many requests, too late
                return f"{caption}\n  {error}"
            return "\n".join([caption, *(f"  {hit.score:8.4f}  {hit.id}" for hit in hits)])

        for text in threads.map(answer, captions):
            print(text)
    if metrics is not None:
        print(metrics.text())


def metrics_if_installed() -> ServingMetrics | None:
    try:
        return ServingMetrics()
    except MissingError as error:
        print(error, file=sys.stderr)
        return None


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(f"usage: {sys.argv[0]} GALLERY [CAPTION …]")
    try:
        main(Path(sys.argv[1]), sys.argv[2:] or CAPTIONS)
    except CaanError as problem:
        sys.exit(f"Error: {problem}")
