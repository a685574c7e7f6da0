"""Invalid numbers, in both runtimes from one table: the same hits, warnings and refusals."""

import hashlib
import json
import shutil
import warnings

import numpy as np
import pytest
from msgspec.structs import replace

from caan.errors import CaanError
from caan.runtime import Gallery, Retriever
from caan.runtime.galleries.folder import read_description, write_description
from caan.runtime.index import Captions, Images, index_items
from tests.cpp.conftest import BACKENDS

CAPTIONS = ["w1 w2", "w3", "w4 w5 w6"]
IMAGES = 7


@pytest.fixture(params=BACKENDS)
def both(open_both, tiny_folder, request):
    return open_both(tiny_folder / "model.caan", backend=request.param)


@pytest.fixture
def spoilt(both, caan_c, library, tiny_folder, tmp_path):
    """spoilt(kind, items, value): a gallery on disk with this value in some items' states, opened by both."""
    retriever = both[0]

    def make(kind, items, value):
        folder = tmp_path / f"{kind}s"
        features = np.random.default_rng(5).standard_normal((IMAGES, 5, 12)).astype(np.float32)
        source = Images(retriever, features) if kind == "image" else Captions(retriever, CAPTIONS)
        ids = [f"{number}.jpg" for number in range(IMAGES)] if kind == "image" else None
        gallery = index_items(retriever, tiny_folder / "model.caan", source, folder, ids)
        states = np.array(gallery.states)
        states[gallery.offsets[items], 3] = value
        (folder / "states.bin").write_bytes(states.tobytes())
        (block,) = read_description(folder).blocks
        block = replace(block, sha256=hashlib.sha256(states.tobytes()).hexdigest())
        write_description(folder, replace(read_description(folder), blocks=(block,)))
        return Gallery.open(folder), caan_c.Gallery(library, str(folder))

    return make


def said_by_both(both, ask):
    """Warnings or error message of `ask(retriever, which)` for 0, Python's retriever, and 1, C++'s."""

    def in_python():
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            ask(both[0], 0)
        return [str(warning.message) for warning in said]

    def in_cpp():
        both[1].warnings.clear()
        ask(both[1], 1)
        return both[1].warnings

    return [said_or_refused(said) for said in (in_python, in_cpp)]


def said_or_refused(said):
    try:
        return said()
    except Exception as error:
        if not isinstance(error, CaanError) and not hasattr(error, "code"):
            raise
        return str(error)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("items", [[3], [0, 2, 3, 6], range(IMAGES)])
def test_images_without_a_score(both, spoilt, value, items):
    galleries, actual = spoilt("image", list(items), value), {}

    def ask(retriever, which):
        actual[which] = retriever.search_many(CAPTIONS, galleries[which], IMAGES)

    expected, theirs = said_by_both(both, ask)
    assert theirs == expected and expected
    if len(items) < IMAGES:
        for ours, row in zip(actual[0], actual[1], strict=True):
            assert [hit.index for hit in ours] == row["index"][: len(ours)].tolist()
            assert set(row["index"][len(ours) :]) == {-1}  # C's hits are as many as were asked for


@pytest.mark.parametrize(
    ("images", "texts"), [([3], []), ([], [1]), ([3, 4], [0, 2]), (range(IMAGES), []), ([], [0, 1, 2])]
)
def test_a_matrix_without_some_scores(both, spoilt, images, texts):
    rows, columns = spoilt("image", list(images), np.nan), spoilt("text", list(texts), np.nan)
    matrices = {}

    def ask(retriever, which):
        matrices[which] = retriever.score_matrix(rows[which], columns[which])

    expected, theirs = said_by_both(both, ask)
    assert theirs == expected and len(expected) == 1
    assert (np.isnan(matrices[0]) == np.isnan(matrices[1])).all()


def test_a_query_without_a_score(both, spoilt):
    rows, columns = spoilt("image", [], np.nan), spoilt("text", [1], np.nan)
    expected, theirs = said_by_both(
        both, lambda retriever, which: retriever.search_many(columns[which], rows[which], 2)
    )
    assert theirs == expected and "caption 1 can't be searched with" in expected


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("value", [1e19, 1e25, -3e38, 9e18, 1e18, 1e9, 1e-30])
def test_features_of_every_magnitude(both, value, dtype):
    features = np.random.default_rng(5).standard_normal((40, 5, 12)).astype(dtype)
    features[33, 2, 7] = value
    expected, theirs = said_by_both(both, lambda retriever, which: retriever.encode_images(features))
    assert theirs == expected
    assert (abs(value) >= 1e19) == ("image 33 can't be encoded" in expected)


def change(manifest, name):
    config = manifest["config"]
    if name.startswith(("unsealed", "old")):
        del manifest["checksum"]
    if name.startswith("old"):
        covered = {key: manifest[key] for key in ("config", "tokenizer", "opset", "limits")}
        manifest["seal"] = hashlib.sha256(json.dumps(covered, sort_keys=True).encode()).hexdigest()
    if name.endswith("scale"):
        config["attention_scale"] = 9.0
    elif name.endswith("normalize"):
        config["normalize"] = False
    elif name.endswith("tokenizer"):
        manifest["tokenizer"] = "word-punct"
    elif name.endswith("huge"):
        config["attention_scale"] = 1e39
    elif name.endswith("limits"):
        manifest["limits"]["words"] = 64
    elif name.endswith("checksum"):
        manifest["checksum"] = "0" * 64
    elif name.endswith("seal"):
        manifest["seal"] = "0" * 64
    elif name.endswith("note"):
        manifest["note"] = 1


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    "name",
    [
        *("scale", "normalize", "tokenizer", "limits", "checksum", "note"),
        *("old", "old scale", "old tokenizer", "old seal", "old note"),
        *("unsealed", "unsealed scale", "unsealed huge"),
    ],
)
def test_a_changed_manifest(open_both, caan_c, library, tiny_folder, tmp_path, backend, name):
    open_both(tiny_folder / "model.caan", backend=backend)  # or skip
    folder = shutil.copytree(tiny_folder / "model.caan", tmp_path / "model.caan")
    manifest = json.loads((folder / "manifest.json").read_text())
    change(manifest, name)
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=2))
    options = {"backend": backend, "device": "cpu", "threads": 1}
    outcomes = [
        said_or_refused(lambda: Retriever.open(folder, **options) and []),
        said_or_refused(lambda: caan_c.Retriever(library, str(folder), **options) and []),
    ]
    assert outcomes[0] == outcomes[1]
    is_refused = name not in ("note", "unsealed", "old", "old note") and (
        backend == "native" or not name.startswith("unsealed")
    )
    assert isinstance(outcomes[0], str) == is_refused
