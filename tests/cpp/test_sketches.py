"""C++ searches galleries by their sketches: files written here as docs/architecture.md describes them."""

import hashlib
import json
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from caan._checksum import text_with_checksum
from caan.bundle import change_bundle, open_bundle, read_manifest
from caan.runtime import Retriever
from caan.runtime.backends.scorer_weights import attention_scale, scorer_weights
from caan.runtime.index import Captions, Images, IndexOptions, delete_items, index_items
from caan.runtime.inputs import tokenize
from tests.cpp.conftest import BACKENDS, CPP, need_native

COLUMNS, CALIBRATION, ITEMS = 32, 5, 300
QUERIES = ["w1 w2", "w3", "w7 w8 w9 w1", "w2"]
CURVE = {
    "items": 290,
    "sample": 290,
    "queries": 40,
    "k": [1, 10],
    "candidates": [10, 40, 100],
    "recall": [[0.8, 0.9, 0.99], [0.7, 0.85, 0.97]],
    "low": [[0.7, 0.8, 0.98], [0.6, 0.8, 0.96]],
    "high": [[0.9, 0.95, 1.0], [0.8, 0.9, 0.98]],
}


def rewrite(gallery, change):
    """gallery.json with its entries changed."""
    content = json.loads((gallery / "gallery.json").read_bytes())
    del content["checksum"]
    change(content)
    content["version"] = 4
    (gallery / "gallery.json").write_bytes(text_with_checksum(content, {}, 1))


def add_sketches(gallery, random, model):
    """Sketches of chance: which items are candidates does not depend on what they mean."""

    def add(content):
        sketches = random.integers(-127, 128, (sum(b["items"] for b in content["blocks"]), COLUMNS), np.int8)
        (gallery / "sketches.bin").write_bytes(sketches.tobytes() + b"left by an append")
        start = 0
        for block in content["blocks"]:
            rows = sketches[start : start + block["items"]]
            block["sketches"] = hashlib.sha256(rows.tobytes()).hexdigest()
            start += block["items"]
        content |= {"sketch": {"model": model, "columns": COLUMNS}, "curve": CURVE}

    rewrite(gallery, add)
    return np.frombuffer((gallery / "sketches.bin").read_bytes(), np.int8)[: ITEMS * COLUMNS].reshape(ITEMS, COLUMNS)


@pytest.fixture(scope="module")
def world(tiny_folder, make_once, unavailable, tmp_path_factory):
    """A bundle with a sketch, galleries of both kinds with sketches, and what is in them."""
    need_native(unavailable)
    folder, random = tmp_path_factory.mktemp("sketched"), np.random.default_rng(3)
    bundle = Path(shutil.copytree(tiny_folder / "model.caan", folder / "model.caan"))
    ours = Retriever.open(bundle, "native", device="cpu")
    dim = ours.backend.model.config["embed_dim"]
    regions = ours.encode_images(random.standard_normal((7, 4, 12)).astype(np.float32), [4, 2, 3, 1, 4, 4, 2])
    model = ours.backend.model
    tokens, _ = tokenize([f"w{n} w{n + 1}" + " w5" * (n % 3) for n in range(8)], model.vocabulary, 128)
    projection = random.standard_normal((2, dim, COLUMNS)).astype(np.float32)
    steps = random.uniform(0.01, 0.1, (2, COLUMNS)).astype(np.float32)

    def add(copy, manifest):
        (copy / "sketch").mkdir()
        arrays = {
            "regions": regions.states[:, :dim].astype(np.float16),
            "region_lengths": regions.lengths.astype(np.int32),
            "tokens": np.concatenate(tokens).astype(np.int32),
            "token_lengths": np.array([len(ids) for ids in tokens], np.int32),
            "projection": projection,
            "steps": steps,
        }
        for name, array in arrays.items():
            np.save(copy / "sketch" / f"{name}.npy", array)
        manifest["sketch"] = {"columns": COLUMNS, "calibration": CALIBRATION, "images": 7, "captions": 8}

    change_bundle(bundle, add)
    files = read_manifest(bundle)["files"]
    names = sorted(name for name in files if name.startswith("sketch/"))
    identity = hashlib.sha256("".join(f"{name} {files[name]['sha256']}\n" for name in names).encode()).hexdigest()
    features = random.standard_normal((ITEMS, 5, 12)).astype(np.float32)
    captions = [f"w{n % 20} w{n % 7} w{n % 11}" for n in range(ITEMS)]
    index_items(
        ours, bundle, Images(ours, features), folder / "images", [f"i{n}" for n in range(ITEMS)], IndexOptions()
    )
    index_items(ours, bundle, Captions(ours, captions), folder / "texts", [f"t{n}" for n in range(ITEMS)])
    delete_items(folder / "images", [f"i{n}" for n in range(0, 300, 30)])
    exact = ours.score_matrix(type(regions).open(folder / "images"), QUERIES)  # (images, queries)
    sketches = {kind: add_sketches(folder / kind, random, identity) for kind in ("images", "texts")}
    return SimpleNamespace(
        folder=folder,
        bundle=bundle,
        projection=projection,
        steps=steps,
        exact=exact,
        sketches=sketches,
        ours=ours,
        regions=regions,
    )


def candidates_of(world, n):
    """The indices (queries, n) of the images that the captions' sketches rank first, computed here."""
    import caan_native

    opened, ours = open_bundle(world.bundle), world.ours
    config = ours.backend.model.config
    scorer = caan_native.Scorer(
        config["embed_dim"], config["attention_dim"], attention_scale(opened), *scorer_weights(opened), "fp32", 1
    )
    queries = ours.encode_captions(QUERIES)
    rows = int(world.regions.lengths[:CALIBRATION].sum())
    dim = config["embed_dim"]
    states = ours.backend.expand_regions(world.regions.states[None, :rows, :dim].astype(np.float16).astype(np.float32))[
        0
    ]
    lengths = world.regions.lengths[:CALIBRATION]
    pooled = scorer.pool_captions(
        queries.states, queries.offsets[:-1], queries.lengths, states, np.cumsum(lengths) - lengths, lengths
    )
    weighted = caan_native.project(pooled, world.projection[1]) * world.steps[0]
    largest = np.abs(weighted).max(axis=1, keepdims=True).astype(np.float64)
    numbers = np.rint(weighted.astype(np.float64) * 32767.0 / largest).astype(np.int16)
    deleted = np.isneginf(world.exact[:, 0])
    return caan_native.Scanner(1).best(world.sketches["images"], numbers, n, deleted)[0]


@pytest.fixture(params=BACKENDS)
def theirs(world, caan_c, library, request):
    return caan_c.Retriever(library, str(world.bundle), backend=request.param, device="cpu", threads=2)


@pytest.fixture
def images(world, caan_c, library):
    return caan_c.Gallery(library, str(world.folder / "images"))


@pytest.mark.parametrize("n", [10, 37, 289])
def test_the_hits_are_the_best_of_the_candidates_with_their_exact_scores(world, theirs, images, n):
    hits, found = theirs.search_sketched(QUERIES, images, 10, candidates=n)
    assert found.candidates == n
    for number, candidates in enumerate(candidates_of(world, n)):
        scores = world.exact[candidates, number]
        best = candidates[np.argsort(-scores, kind="stable")[:10]]
        assert np.abs(hits["score"][number] - world.exact[best, number]).max() <= 1e-5
        assert np.abs(hits["score"][number] - world.exact[hits["index"][number], number]).max() <= 1e-5
        assert set(hits["index"][number]) <= set(candidates)


@pytest.mark.parametrize(
    ("k", "recall", "candidates", "measured"),
    [(1, 0.8, 10, 0.8), (1, 0.81, 40, 0.9), (2, 0.85, 40, 0.85), (10, 0.97, 100, 0.97), (8, 0.5, 10, 0.7)],
)
def test_a_recall_takes_the_fewest_candidates_that_reached_it(theirs, images, k, recall, candidates, measured):
    hits, found = theirs.search_sketched(QUERIES, images, k, recall=recall)
    assert (found.candidates, found.recall) == (candidates, measured)
    assert found.low < found.recall < found.high
    assert hits.shape == (4, k)
    assert theirs.warnings == []


def test_a_recall_of_1_and_as_many_candidates_as_items_are_exact(theirs, images):
    exact = theirs.search_many(QUERIES, images, 10)
    for how in ({"recall": 1.0}, {"candidates": 290}, {"candidates": 10**9}, {}):
        hits, found = theirs.search_sketched(QUERIES, images, 10, **how)
        assert (hits == exact).all()
        assert found.candidates == 0 and np.isnan(found.recall)


def test_a_recall_that_was_not_measured_is_exact_and_says_so(world, theirs, images):
    exact = theirs.search_many(QUERIES, images, 20)
    for k, recall, message in [
        (10, 0.98, f"the recall measured on {world.folder}/images ends below 0.98 at k = 10; searched exactly"),
        (20, 0.5, f"recall on {world.folder}/images was measured up to k = 10; searched exactly"),
    ]:
        theirs.warnings.clear()
        hits, found = theirs.search_sketched(QUERIES, images, k, recall=recall)
        assert theirs.warnings == [message]
        assert (hits == exact[:, :k]).all() and found.candidates == 0


def test_images_search_captions(world, theirs, caan_c, library):
    texts = caan_c.Gallery(library, str(world.folder / "texts"))
    queries = theirs.encode_images(np.random.default_rng(5).standard_normal((3, 5, 12)).astype(np.float32))
    scores = theirs.score_matrix(queries, texts)
    hits, found = theirs.search_sketched(queries, texts, 5, candidates=60)
    assert found.candidates == 60
    assert np.abs(hits["score"] - np.take_along_axis(scores, hits["index"], 1)).max() <= 1e-5


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"recall": 1.5}, "recall is 1.5; ask for more than 0, at most 1"),
        ({"recall": -1.0}, "recall is -1.0; ask for more than 0, at most 1"),
        ({"recall": 0.9, "candidates": 20}, "give recall or candidates, not both"),
        ({"candidates": 9}, "candidates must be k or more: 9 is not, k is 10"),
    ],
)
def test_what_can_not_be_asked_for(theirs, images, caan_c, how, message):
    with pytest.raises(caan_c.CaanError) as caught:
        theirs.search_sketched(QUERIES, images, 10, **how)
    assert (str(caught.value), caught.value.code) == (message, 2)


@pytest.fixture
def damaged(world, tmp_path, caan_c, library):
    """damaged(change): opens a copy of the images whose folder was changed, and searches it; returns the message."""
    folder = Path(shutil.copytree(world.folder / "images", tmp_path / "images"))
    theirs = caan_c.Retriever(library, str(world.bundle), backend="native", device="cpu", threads=2)

    def search(change):
        change(folder)
        with pytest.raises(caan_c.CaanError) as caught:
            theirs.search_sketched(QUERIES, caan_c.Gallery(library, str(folder)), 10, candidates=20)
        assert caught.value.code == 2
        return str(caught.value), folder

    return search


def flip(folder):
    content = bytearray((folder / "sketches.bin").read_bytes())
    content[100] ^= 1
    (folder / "sketches.bin").write_bytes(content)


def cut(folder):
    (folder / "sketches.bin").write_bytes(b"too short")


def test_sketches_that_were_changed(damaged):
    message, folder = damaged(flip)
    assert message == (
        f"{folder}/sketches.bin was changed: the sketches of items 0 to 127 are not those that were written; make them"
        f" again: caan sketch {folder}"
    )


def test_sketches_that_were_cut(damaged):
    message, folder = damaged(cut)
    again = f"make them again: caan sketch {folder}"
    assert message == f"{folder}/sketches.bin is truncated: 9 bytes of {ITEMS * COLUMNS}; {again}"


def test_sketches_that_are_missing(damaged):
    message, folder = damaged(lambda folder: (folder / "sketches.bin").unlink())
    again = f"make them again: caan sketch {folder}"
    assert message == f"{folder}/sketches.bin can't be read (No such file or directory); {again}"


def test_sketches_of_another_model(damaged):
    def change(content):
        content["sketch"]["model"] = "0" * 64

    message, folder = damaged(lambda folder: rewrite(folder, change))
    made = f"the sketches of {folder} were made with another model or sketch"
    assert message == f"{made}; make them again: caan sketch {folder}"


def test_a_gallery_without_sketches(damaged):
    def change(content):
        del content["sketch"], content["curve"]
        for block in content["blocks"]:
            del block["sketches"]

    message, folder = damaged(lambda folder: rewrite(folder, change))
    assert message == (
        f"{folder} has no sketches, so it can't be searched by recall or candidates; add them: caan sketch {folder}"
    )


@pytest.mark.parametrize("change", [lambda c: c.pop("sketch"), lambda c: c["blocks"][0].pop("sketches")])
def test_blocks_that_do_not_fit_the_sketch(damaged, change):
    message, folder = damaged(lambda folder: rewrite(folder, change))
    assert message.startswith(f"{folder}/gallery.json is not a valid description (")


@pytest.mark.parametrize(
    ("key", "value"),
    [("k", [10, 1]), ("candidates", [10, 40]), ("recall", [[1, 2, 3], [0, 0, 0]]), ("sample", 0), ("k", [])],
)
def test_curves_that_are_none(damaged, key, value):
    def change(content):
        content["curve"][key] = value

    message, folder = damaged(lambda folder: rewrite(folder, change))
    assert message.startswith(f"{folder}/gallery.json is not a valid description (")


def test_a_bundle_without_a_sketch(world, tiny_folder, caan_c, library, images):
    theirs = caan_c.Retriever(library, str(tiny_folder / "model.caan"), backend="native", device="cpu")
    with pytest.raises(caan_c.CaanError) as caught:
        theirs.search_sketched(QUERIES, images, 10, candidates=20)
    assert str(caught.value) == "this model has no sketches; make them: caan sketch BUNDLE --data DATA"


def test_grown_galleries_take_as_many_more_candidates(world, tmp_path, caan_c, library):
    def change(content):
        content["curve"] |= {"items": 145, "sample": 145}

    folder = Path(shutil.copytree(world.folder / "images", tmp_path / "images"))
    rewrite(folder, change)
    theirs = caan_c.Retriever(library, str(world.bundle), backend="native", device="cpu", threads=2)
    _, found = theirs.search_sketched(QUERIES, caan_c.Gallery(library, str(folder)), 10, recall=0.85)
    assert found.candidates == 80


def test_the_command(world, unavailable):
    program = CPP / "build-release" / "caan-search-cpp"
    if not program.is_file():
        unavailable("needs caan-search-cpp; make test-cpp builds it")
    command = [program, world.bundle, world.folder / "images", "w1 w2", "2"]
    done = subprocess.run([*command, "--recall", "0.85"], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "40 candidates, recall 0.850 (0.800 to 0.900)"
    done = subprocess.run([*command, "--candidates", "1"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (2, "Error: candidates must be k or more: 1 is not, k is 2\n")
    for options in (["--recall"], ["--candidates", "1.5"], ["3", "x"]):
        assert subprocess.run([*command, *options], capture_output=True, text=True).returncode == 2
