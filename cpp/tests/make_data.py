"""What the C++ tests read, made by the Python package: python make_data.py FOLDER.

FOLDER/model.caan      an untrained tiny model's bundle, FP32 and FP16 graphs
FOLDER/galleries/NAME  galleries of its 300 images (three blocks) or 40 captions; NAME says what is special about them
FOLDER/features.npy    (300, 5, 12) float32
FOLDER/expected.json   captions, regions of each image, and what Python makes of them: tokens, scores, hits
"""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import onnx
import torch

from caan.bundle import GRAPHS, graph_file, write_manifest
from caan.data.vocabulary import SPECIAL_TOKENS, Vocabulary
from caan.export.bundle_from_checkpoint import export_checkpoint
from caan.export.fp16 import to_fp16
from caan.model.caan import CAAN, CaanConfig
from caan.model.checkpoint import load_checkpoint, save_checkpoint
from caan.runtime import Retriever
from caan.runtime.index import Captions, Images, IndexOptions, delete_items, index_items

CONFIG = CaanConfig(
    region_dim=12, embed_dim=10, word_dim=6, attention_dim=7, vocab_size=24, num_regions=5, attention_scale=4.0
)
WORDS = [f"w{number}" for number in range(20)]
IMAGES, CAPTIONS = 300, 40
DELETED = [0, 7, 8, 9, 299]


def make_data(folder: Path) -> None:
    generator = np.random.default_rng(0)
    bundle = make_bundle(folder)
    features = generator.standard_normal((IMAGES, 5, 12)).astype(np.float32)
    np.save(folder / "features.npy", features)
    lengths = generator.integers(1, 6, IMAGES)
    captions = [" ".join(generator.choice(WORDS, generator.integers(1, 13))) for _ in range(CAPTIONS)]
    retriever = Retriever.open(bundle, "onnxruntime")
    make_galleries(retriever, bundle, Images(retriever, features, lengths), captions, folder / "galleries")
    gallery = retriever.encode_images(features, lengths)
    expected = {
        "captions": captions,
        "lengths": lengths.tolist(),
        "deleted": DELETED,
        "tokens": [retriever.backend.model.vocabulary.encode(caption) for caption in captions],
        "scores": retriever.score_matrix(gallery, captions).tolist(),
        "hits": [[hit.index for hit in hits] for hits in retriever.search_many(captions, gallery, 10)],
    }
    (folder / "expected.json").write_text(json.dumps(expected))


def make_bundle(folder: Path) -> Path:
    torch.manual_seed(7)
    vocabulary = Vocabulary({word: number for number, word in enumerate([*SPECIAL_TOKENS, *WORDS])})
    save_checkpoint(folder / "model.pt", CAAN(CONFIG), vocabulary, {})
    bundle = folder / "model.caan"
    export_checkpoint(load_checkpoint(folder / "model.pt"), folder / "model.pt", bundle)
    manifest = json.loads((bundle / "manifest.json").read_text())
    for graph in GRAPHS:
        onnx.save(to_fp16(onnx.load(bundle / graph_file(graph, "fp32"))), bundle / graph_file(graph, "fp16"))
    manifest["precisions"]["fp16"] = {"checks": []}
    write_manifest(bundle, manifest)
    return bundle


def make_galleries(retriever: Retriever, bundle: Path, images: Images, captions: list[str], folder: Path) -> None:
    folder.mkdir()
    ids = [f"картина {image}.jpg" for image in range(IMAGES)]
    for name, options in {
        "float16": IndexOptions(),
        "float32": IndexOptions("float32"),
        "compact": IndexOptions(compact=True),
        "compact32": IndexOptions("float32", compact=True),
        "bfloat16": IndexOptions("bfloat16"),
        "int8": IndexOptions("int8"),
        "compact8": IndexOptions("int8", compact=True),
        "deleted": IndexOptions("float32"),
    }.items():
        index_items(retriever, bundle, images, folder / name, ids, options)
    delete_items(folder / "deleted", [ids[image] for image in DELETED])
    for name, dtype in {"texts": "float32", "texts8": "int8"}.items():
        index_items(retriever, bundle, Captions(retriever, captions), folder / name, None, IndexOptions(dtype))


if __name__ == "__main__":
    target = Path(sys.argv[1])
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    make_data(target)
