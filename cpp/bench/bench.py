"""Speed and memory of the runtime in C++, beside Python's: python bench.py CAAN-BENCH-CPP [BUNDLE]

Without a bundle, an untrained one of the paper's size (D = d = 1024) is made. Each row is a process of its own.
"""

import json
import subprocess
import sys
import tempfile
import time
from contextlib import nullcontext
from operator import itemgetter
from pathlib import Path
from typing import Any, cast

import numpy as np

from caan.bench.synthetic import synthetic_bundle
from caan.bundle import graph_file, open_bundle, state_widths
from caan.data.vocabulary import Vocabulary
from caan.runtime import Retriever
from caan.runtime.choices import BackendName

IMAGES, CAPTIONS, REGIONS, WORDS = 1000, 100, 36, 12
CALLS = 2


def main(program: str, bundle: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        features, captions = Path(folder, "features.npy"), Path(folder, "captions.txt")
        write_inputs(bundle, features, captions)
        ways = {
            "C++ native": (program, bundle, "native"),
            "Python native": (sys.executable, __file__, bundle, "native"),
            "C++ onnxruntime": (program, bundle, "onnxruntime"),
        }
        # In turns, the fastest of each: the machine's clock moves.
        runs = [{name: measured(*way, features, captions) for name, way in ways.items()} for _ in range(2)]
    rows = {name: max((run[name] for run in runs), key=itemgetter("pairs_per_second")) for name in ways}
    for name, row in rows.items():
        print(f"{name:16} {row['pairs_per_second']:9,.0f} pairs/s", end="")
        if "open_seconds" in row:
            least = needed_bytes(bundle, row["backend"])
            ratio = row["resident_bytes"] / least
            print(f"   opens in {1000 * row['open_seconds']:4.0f} ms", end="")
            print(f"   {row['resident_bytes'] / 1e6:5.0f} MB resident, {ratio:.2f} x graphs and states", end="")
        print()
    ours = rows["C++ native"]["pairs_per_second"]
    for name in ("Python native", "C++ onnxruntime"):
        print(f"C++ native / {name}: {ours / rows[name]['pairs_per_second']:.2f}")


def write_inputs(bundle: Path, features: Path, captions: Path) -> None:
    generator = np.random.default_rng(0)
    opened = open_bundle(bundle)
    shape = (IMAGES, REGIONS, opened.config["region_dim"])
    np.save(features, generator.standard_normal(shape, np.float32))
    words = [word for word in Vocabulary.load(bundle / "vocab.json").words if word.isalnum()]
    captions.write_text("".join(f"{' '.join(generator.choice(words, WORDS))}\n" for _ in range(CAPTIONS)))


def measured(*command: object) -> dict[str, Any]:
    done = subprocess.run([str(word) for word in command], stdout=subprocess.PIPE, text=True, check=True)
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def needed_bytes(bundle: Path, backend: str) -> int:
    """The graphs that are open, and the states."""
    graphs = ["image_encoder", "text_encoder", *(["scorer"] if backend == "onnxruntime" else [])]
    widths = state_widths(open_bundle(bundle).config)
    states = 4 * (IMAGES * REGIONS * widths["image"] + CAPTIONS * (WORDS + 2) * widths["text"])
    return states + sum((bundle / graph_file(graph, "fp32")).stat().st_size for graph in graphs)


def measure_python(bundle: Path, backend: str, features: Path, captions: Path) -> None:
    retriever = Retriever.open(bundle, cast(BackendName, backend), device="cpu")
    images = retriever.encode_images(np.load(features, mmap_mode="r"))
    texts = retriever.encode_captions(captions.read_text().splitlines())
    times = []
    for _ in range(CALLS):
        start = time.perf_counter()
        retriever.score_matrix(images, texts)
        times.append(time.perf_counter() - start)
    print(json.dumps({"backend": retriever.backend.name, "pairs_per_second": IMAGES * CAPTIONS / min(times)}))


if __name__ == "__main__":
    if len(sys.argv) == 5:
        measure_python(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]), Path(sys.argv[4]))
    else:
        bundles = [nullcontext(Path(path)) for path in sys.argv[2:]]
        with bundles[0] if bundles else synthetic_bundle(lambda _: None) as made:
            main(sys.argv[1], made)
