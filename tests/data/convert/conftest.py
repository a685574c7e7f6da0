"""A few images with features and boxes, and every form in which such things are published."""

import base64
import json
import pickle
import tarfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

COUNTS = [3, 1, 4, 2]
NAMES = ["1000092795", "10002456", "391895", "7"]
SIZE = (200.0, 100.0)  # width, height


@dataclass
class World:
    """The content of every form."""

    names: list[str]
    features: list[np.ndarray]  # (r, 6) float32
    boxes: list[np.ndarray]  # (r, 4) pixels

    def padded(self, arrays):
        result = np.zeros((len(arrays), max(COUNTS), arrays[0].shape[1]), np.float32)
        for row, array in zip(result, arrays, strict=True):
            row[: len(array)] = array
        return result

    @property
    def relative(self):
        return [boxes / np.array([*SIZE, *SIZE], np.float32) for boxes in self.boxes]


@pytest.fixture(scope="session")
def world():
    generator = np.random.default_rng(3)
    features = [generator.standard_normal((count, 6)).astype(np.float32) for count in COUNTS]
    boxes = []
    for count in COUNTS:
        corner = generator.uniform(0, 40, (count, 2))
        boxes.append(np.hstack([corner, corner + generator.uniform(1, 50, (count, 2))]).astype(np.float32))
    return World(NAMES, features, boxes)


def b64(array):
    return base64.b64encode(np.ascontiguousarray(array, "<f4").tobytes())


def tsv(world, path, numbers=range(4)):
    lines = []
    for n in numbers:
        sides = [str(int(side)).encode() for side in SIZE]
        row = [world.names[n].encode(), *sides, str(COUNTS[n]).encode(), b64(world.boxes[n]), b64(world.features[n])]
        lines.append(b"\t".join(row) + b"\n")
    path.write_bytes(b"".join(lines))
    return path


def lxmert_tsv(world, path):
    lines = []
    for n, name in enumerate(world.names):
        unused = [b64(np.ones(COUNTS[n]))] * 4
        sides = [b"100", b"200"]  # height first
        row = [name.encode(), *sides, *unused, str(COUNTS[n]).encode(), b64(world.boxes[n]), b64(world.features[n])]
        lines.append(b"\t".join(row) + b"\n")
    path.write_bytes(b"".join(lines))
    return path


def titled_tsv(world, path):
    tsv(world, path)
    path.write_bytes(b"image_id\timage_w\timage_h\tnum_boxes\tboxes\tfeatures\n" + path.read_bytes())
    return path


def npz_folder(world, path):
    path.mkdir()
    for n, name in enumerate(world.names):
        padding = ((0, 2), (0, 0))  # bottom-up-attention.pytorch may keep more rows than boxes
        np.savez(
            path / f"{name}.jpg.npz",
            x=np.pad(world.features[n], padding),
            bbox=np.pad(world.boxes[n], padding),
            num_bbox=COUNTS[n],
            image_w=SIZE[0],
            image_h=SIZE[1],
            info=np.array({"objects": 1}, object),
        )
    return path


def npy_folder(world, path):
    path.mkdir()
    for n, name in enumerate(world.names):
        np.save(path / f"{name}.npy", world.features[n])
    return path


def hdf5_padded(world, path):
    import h5py

    with h5py.File(path, "w") as file:
        file["features"], file["boxes"] = world.padded(world.features), world.padded(world.boxes)
        file["image_ids"] = [int(name) for name in world.names]
        file["num_boxes"] = COUNTS
        file["image_w"], file["image_h"] = [SIZE[0]] * 4, [SIZE[1]] * 4
    return path


def hdf5_ranges(world, path):
    import h5py

    ends = np.cumsum(COUNTS)
    with h5py.File(path, "w") as file:
        file["image_features"], file["image_bb"] = np.concatenate(world.features), np.concatenate(world.boxes)
        file["pos_boxes"] = np.stack([ends - COUNTS, ends], 1)
        file["ids"] = [name.encode() for name in world.names]
        file["image_w"], file["image_h"] = [SIZE[0]] * 4, [SIZE[1]] * 4
    return path


def hdf5_groups(world, path):
    import h5py

    with h5py.File(path, "w") as file:
        for n, name in enumerate(world.names):
            group = file.create_group(name)
            group["features"], group["boxes"] = world.features[n], world.boxes[n]
            group.attrs["image_w"], group.attrs["image_h"] = SIZE
    return path


def hdf5_datasets(world, path):
    import h5py

    with h5py.File(path, "w") as file:
        for n, name in enumerate(world.names):
            file[f"{name}_features"], file[f"{name}_boxes"] = world.features[n], world.relative[n]
    return path


def hdf5_two_groups(world, path):
    import h5py

    with h5py.File(path, "w") as file:
        for n, name in enumerate(world.names):
            file[f"features/{name}"], file[f"boxes/{name}"] = world.features[n], world.relative[n]
    return path


def lmdb_folder(world, path, value=None):
    import lmdb

    def vilbert(n):
        fields = {"image_id": world.names[n], "image_w": 200, "image_h": 100, "num_boxes": COUNTS[n]}
        return pickle.dumps({**fields, "boxes": b64(world.boxes[n]), "features": b64(world.features[n])})

    with lmdb.open(str(path), map_size=1 << 20) as environment, environment.begin(write=True) as transaction:
        for n, name in enumerate(world.names):
            transaction.put(name.encode(), (value or vilbert)(n))
        transaction.put(b"keys", pickle.dumps([name.encode() for name in world.names]))
    return path


def lmdb_arrays(world, path):
    def mmf(n):
        fields = {"features": world.features[n], "bbox": world.boxes[n], "image_width": 200, "image_height": 100}
        return pickle.dumps(fields)

    return lmdb_folder(world, path, mmf)


def one_array(world, path):
    path.mkdir()
    np.save(path / "all_ims.npy", world.padded(world.features))
    np.save(path / "all_lengths.npy", np.array(COUNTS))
    return path / "all_ims.npy"


# Form → (its maker, whether it has boxes)
FORMS = {
    "plain.tsv": (tsv, True),
    "lxmert.tsv": (lxmert_tsv, True),
    "titled.tsv": (titled_tsv, True),
    "npz": (npz_folder, True),
    "npy": (npy_folder, False),
    "padded.h5": (hdf5_padded, True),
    "ranges.hdf5": (hdf5_ranges, True),
    "groups.h5": (hdf5_groups, True),
    "datasets.h5": (hdf5_datasets, True),
    "two.groups.h5": (hdf5_two_groups, True),
    "lmdb": (lmdb_folder, True),
    "arrays.lmdb": (lmdb_arrays, True),
    "array": (one_array, False),
}


def karpathy(path: Path) -> Path:
    """Three splits; Flickr's file names and one of COCO's."""
    images = [
        ("1000092795.jpg", "train", {}),
        ("10002456.jpg", "val", {}),
        ("COCO_val2014_000000391895.jpg", "test", {"cocoid": 391895}),
        ("COCO_train2014_000000000007.jpg", "restval", {"cocoid": 7}),
    ]
    content = {
        "dataset": "mixed",
        "images": [
            {
                "filename": name,
                "split": split,
                "imgid": number,
                **others,
                "sentids": list(range(5 * number, 5 * number + 5)),
                "sentences": [
                    {"raw": f"Caption {k} of\n{number} .", "tokens": ["caption", str(k), "of", str(number)]}
                    for k in range(5)
                ],
            }
            for number, (name, split, others) in enumerate(images)
        ],
    }
    path.write_text(json.dumps(content))
    return path


def tarred(folder: Path, path: Path) -> Path:
    with tarfile.open(path, "w") as archive:
        archive.add(folder)
    return path
