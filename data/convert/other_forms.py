"""Forms of features that are not read, recognized by name or first bytes, each with the way to convert it."""

from __future__ import annotations

from pathlib import Path

from ..._files import open_regular
from ...errors import DataError

_NPZ = "numpy.savez('ID.npz', x=features, bbox=boxes, image_w=…, image_h=…) for each image"
# Suffixes, what such a file is, and how to convert it.
_FORMS = [
    (".pth .pt .bin .ckpt", "a file of PyTorch", f"load it with torch.load(…, weights_only=True): write {_NPZ}"),
    (".pkl .pickle .p", "a pickle, which could run code", f"load it where you trust it: write {_NPZ}"),
    (".mat", "a file of MATLAB", f"load it with scipy.io.loadmat (v7.3: h5py): write {_NPZ}"),
    (".parquet .arrow .feather", "a table of Arrow", f"load it with pandas: write {_NPZ}"),
    (".tfrecord .tfrecords", "a file of TensorFlow", f"read it with tf.data.TFRecordDataset: write {_NPZ}"),
    (".tar .tgz .zip .7z .rar", "an archive", "unpack it, and name the folder or file inside"),
    (".gz .bz2 .xz .zst .lz4", "compressed", "unpack it, and name the file inside"),
    (".csv .txt .json .jsonl", "text, not features", "name captions with --captions FILE"),
    (".jpg .jpeg .png .webp", "a picture", "extract its features with a detector, such as bottom-up-attention"),
]
_BY_SUFFIX = {suffix: (what, remedy) for suffixes, what, remedy in _FORMS for suffix in suffixes.split()}
# By first bytes, the suffix that says what it is.
_BY_START = {
    b"\x1f\x8b": ".gz", b"BZh": ".bz2", b"\xfd7zXZ": ".xz", b"\x28\xb5\x2f\xfd": ".zst", b"PAR1": ".parquet",
    b"ARROW1": ".arrow", b"MATLAB": ".mat", b"\x80\x02": ".pkl", b"\x80\x03": ".pkl", b"\x80\x04": ".pkl",
    b"\x80\x05": ".pkl", b"\xff\xd8\xff": ".jpg", b"\x89PNG": ".png",
}  # fmt: skip
LFS = b"version https://git-lfs"


def refusal_of(path: Path) -> DataError | None:
    """Why a file isn't read, with the way to convert it; None for an unknown form. Raises DataError if unreadable."""
    if path.is_dir():
        return None
    start = first_bytes(path)
    suffix = next((suffix for content, suffix in _BY_START.items() if start.startswith(content)), path.suffix.lower())
    if suffix not in _BY_SUFFIX:
        return None
    what, remedy = _BY_SUFFIX[suffix]
    return DataError(f"{path} is {what}; {remedy}")


def first_bytes(path: Path, number: int = 32) -> bytes:
    """The start of a file. Raises DataError if it can't be read."""
    try:
        with open_regular(path) as file:
            return file.read(number)
    except OSError as error:
        raise DataError(f"can't read {path}: {error.strerror or error}") from error
