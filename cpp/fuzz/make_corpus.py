"""The inputs that the fuzzers begin with, one of each form: python make_corpus.py, which writes corpus/."""

import io
import json
from pathlib import Path

import numpy as np

CORPUS = Path(__file__).with_name("corpus")
SPECIAL_TOKENS = {"<pad>": 0, "<start>": 1, "<end>": 2, "<unk>": 3}


def make_corpus() -> None:
    write("manifest", "whole", text(manifest()))
    write("manifest", "other-version", text({**manifest(), "version": 2}))
    write("manifest", "outside", text(manifest("../secret")))
    words = {**SPECIAL_TOKENS, "dog": 4, "ς": 5}
    write("vocabulary", "plain", b"A dog, \xce\xa3\n" + text(words))
    write("vocabulary", "scan", b"dog\n" + text({"word2idx": words, "idx2word": {}, "idx": 6}))
    ours = {"format": "caan-vocabulary", "version": 1, "tokenizer": "word-punct", "words": words}
    write("vocabulary", "ours", b"\xc4\xb0dog's!\n" + text(ours))
    for dtype in ("<f2", "<f4", "<f8", ">f4", "<i8"):
        write("npy", dtype.strip("<>") + ("-big" if dtype[0] == ">" else ""), npy(np.zeros((2, 1, 3), dtype)))
    write("npy", "fortran", npy(np.zeros((2, 2, 3), "<f4", order="F")))
    write("npy", "version-2", npy(np.zeros((1, 1, 1), "<f4"), (2, 0)))
    write("npy", "version-3", npy(np.zeros((1, 1, 1), "<f4"), (3, 0)))
    lengths = np.array([2, 1, 3], "<i4").tobytes()
    write("gallery", "with-ids", text(gallery(ids=True)) + b"\0" + lengths + b'"a"\n"\\u00e9"\n"c"\n')
    write("gallery", "without-ids", text(gallery(ids=False)) + b"\0" + lengths)
    write("gallery", "format-2", text({**gallery(ids=False), "version": 2}) + b"\0" + lengths)


def manifest(file: str = "vocab.json") -> dict[str, object]:
    return {
        "format": "caan-bundle",
        "version": 1,
        "config": {"region_dim": 12, "embed_dim": 10, "attention_dim": 7, "vocab_size": 24},
        "tokenizer": "whitespace",
        "limits": {"regions": 36, "words": 128},
        "files": {file: {"size": 2, "sha256": "0" * 64}},
        "precisions": {"fp32": {"checks": []}},
    }


def gallery(ids: bool) -> dict[str, object]:
    part = {"size": 12, "sha256": "0" * 64}
    return {
        "format": "caan-gallery",
        "version": 3,
        "kind": "image",
        "encoder": "0" * 64,
        "dtype": "float16",
        "columns": 41,
        "compact": False,
        "bundle": "../model.caan",
        "blocks": [
            {"items": 2, "rows": 3, "sha256": "", "crc32": 0},
            {"items": 1, "rows": 3, "sha256": "", "crc32": 0},
        ],
        "lengths": part,
        "ids": part if ids else None,
        "deleted": [[0, 1]],
    }


def npy(array: np.ndarray, version: tuple[int, int] = (1, 0)) -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array(file, array, version)
    return file.getvalue()


def text(content: object) -> bytes:
    return json.dumps(content, ensure_ascii=False).encode()


def write(fuzzer: str, name: str, content: bytes) -> None:
    (CORPUS / fuzzer).mkdir(parents=True, exist_ok=True)
    (CORPUS / fuzzer / name).write_bytes(content)


if __name__ == "__main__":
    make_corpus()
