"""Export to search, once, with the installed versions: make test-lowest runs it with the oldest ones allowed.

Exits with an error at the first command that fails.
"""

import os
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch

from caan.data.vocabulary import SPECIAL_TOKENS, Vocabulary
from caan.model.caan import CAAN, CaanConfig
from caan.model.checkpoint import save_checkpoint

WORDS = [f"w{number}" for number in range(20)]
CONFIG = CaanConfig(
    region_dim=12, embed_dim=10, word_dim=6, attention_dim=7, vocab_size=24, num_regions=5, attention_scale=4.0
)
ENGINE = ("--target", "tensorrt-rtx")
# A random model's R@K is meaningless.
ANY_RSUM = ("--gate-rsum", "600")
PRECISIONS = ("fp32", "fp16", "int8")
COMMANDS = (
    ("export", "model.pt"),
    ("build-engine", "--fp16", *ENGINE),
    ("build-engine", "--int8", "--calibration-data", "data", *ENGINE, *ANY_RSUM),
    *(("eval", "--data", "data", "--backend", "onnxruntime", "--precision", p) for p in PRECISIONS),
    ("index", "model.caan", "data/test_ims.npy", "-o", "gallery"),
    ("search", "gallery", "w1 w2 w3"),
    ("doctor",),
)


def main() -> None:
    packages = ("numpy", "torch", "onnx", "onnxscript", "onnx-graphsurgeon", "onnxruntime", "click", "tqdm", "psutil")
    packages += ("msgspec", "platformdirs", "nvidia-ml-py", "tabulate")
    print(", ".join(f"{name} {version(name)}" for name in packages))
    with tempfile.TemporaryDirectory() as folder:
        write_world(Path(folder))
        environment = os.environ | {"CAAN_CACHE": f"{folder}/cache", "OMP_NUM_THREADS": "2"}
        for command in COMMANDS:
            print("caan", *command, flush=True)
            arguments = [sys.executable, "-c", "from caan.cli import main; main()", *command]
            subprocess.run(arguments, cwd=folder, env=environment, check=True)
    print(f"{len(COMMANDS)} passed, 0 failed")


def write_world(folder: Path) -> None:
    torch.manual_seed(7)
    vocabulary = Vocabulary({word: number for number, word in enumerate([*SPECIAL_TOKENS, *WORDS])})
    save_checkpoint(folder / "model.pt", CAAN(CONFIG), vocabulary, {"rsum": 1.0})
    (folder / "data").mkdir()
    generator = np.random.default_rng(0)
    for split, images in (("train", 64), ("test", 6)):
        features = generator.standard_normal((images, CONFIG.num_regions, CONFIG.region_dim)).astype(np.float32)
        np.save(folder / "data" / f"{split}_ims.npy", features)
        captions = [" ".join(generator.choice(WORDS, generator.integers(1, 9))) for _ in range(5 * images)]
        (folder / "data" / f"{split}_caps.txt").write_text("".join(f"{caption}\n" for caption in captions))


if __name__ == "__main__":
    main()
