"""The compiled scorer as a backend: equals ONNX Runtime for every kind of gallery; what it refuses and copies."""

import os
import signal
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from caan.bundle import SCORER_WEIGHTS
from caan.data.vocabulary import SPECIAL_TOKENS, Vocabulary
from caan.errors import BundleError, InputError, MissingError
from caan.export.bundle_from_checkpoint import export_checkpoint
from caan.model.caan import CAAN, CaanConfig
from caan.model.checkpoint import load_checkpoint, save_checkpoint
from caan.runtime import BatchingRetriever, Gallery, Retriever
from caan.runtime.galleries.in_memory import offsets_of
from caan.runtime.index import Captions, Images, IndexOptions, index_items
from caan.runtime.scoring import cutters
from caan.runtime.scoring.cutters import Choice
from caan.runtime.scoring.tiles import tiles_of
from caan.runtime.scoring.tuning import is_worth_tuning
from tests.conftest import add_half_precision
from tests.runtime.backends.test_from_bundle import replace as replace_bundle

caan_native = pytest.importorskip("caan_native", reason="needs the package caan_native: make native")
needs_bfloat16 = pytest.mark.skipif(
    not caan_native.has_native_bfloat16(), reason="needs a processor that multiplies bfloat16"
)

WORDS = [f"w{number}" for number in range(20)]
CAPTIONS = [" ".join(WORDS[n % 7 : n % 7 + 1 + n % 9]) for n in range(40)]
FEATURES = np.random.default_rng(0).standard_normal((60, 5, 12)).astype(np.float32)
LENGTHS = np.arange(60) % 5 + 1
ALL_EQUAL = np.full(60, 5)


@pytest.fixture(scope="module")
def both(tiny_folder):
    """The native Retriever, and ONNX Runtime's."""
    return [Retriever.open(tiny_folder / "model.caan", name) for name in ("native", "onnxruntime")]


def differ(a, b):
    return np.abs(a - b).max()


@pytest.mark.parametrize("lengths", [LENGTHS, ALL_EQUAL], ids=["ragged", "equal"])
@pytest.mark.parametrize("deleted", [None, np.arange(60) % 13 == 4])
def test_scores_are_onnxruntimes(both, lengths, deleted):
    native, onnx = both
    gallery = replace(native.encode_images(FEATURES, lengths), deleted=deleted)
    expected = onnx.score_matrix(gallery, CAPTIONS)
    live = gallery.live
    for captions in (CAPTIONS, onnx.encode_captions(CAPTIONS), CAPTIONS[:1]):
        actual = native.score_matrix(gallery, captions)
        assert differ(actual[live], expected[live, : len(captions)]) <= 1e-5
        assert deleted is None or (actual[deleted] == -np.inf).all()


@given(st.lists(st.tuples(st.integers(1, 5), st.booleans()), min_size=1, max_size=50))
def test_a_query_is_one_call_that_reads_the_gallery_in_place(both, items):
    native, _ = both
    lengths = [length for length, _ in items]
    deleted = np.array([gone for _, gone in items])
    gallery = replace(native.encode_images(FEATURES[: len(items)], lengths), deleted=deleted)
    cut = list(tiles_of(native.backend, Choice(1), gallery, native.encode_captions(CAPTIONS[:1])))
    assert len(cut) == (0 if deleted.all() else 1)
    for tile in cut:
        assert tile.image_states is gallery.states
        assert (tile.image_starts == gallery.offsets[:-1][~deleted]).all()
        assert (tile.image_lengths == gallery.lengths[~deleted]).all()


@pytest.mark.parametrize("copied", [1, 5000, 1 << 20])
def test_a_compact_gallery_is_expanded_in_parts(both, tiny_folder, tmp_path, copied, monkeypatch):
    native, onnx = both
    source, options = Images(native, FEATURES, LENGTHS), IndexOptions("float32", True)
    compact = index_items(native, tiny_folder / "model.caan", source, tmp_path / "images", None, options)
    monkeypatch.setattr(cutters, "_EXPANDED_BYTES", copied)
    assert differ(native.score_matrix(compact, CAPTIONS), onnx.score_matrix(compact, CAPTIONS)) <= 1e-5
    for tile in tiles_of(native.backend, Choice(1), compact, native.encode_captions(CAPTIONS[:1])):
        assert len(tile.image_lengths) == 1 or tile.image_states.nbytes <= copied


@pytest.mark.parametrize("options", [IndexOptions("float32"), IndexOptions("float16"), IndexOptions("float16", True)])
def test_galleries_on_disk_in_every_form(both, tiny_folder, tmp_path, options):
    native, onnx = both
    bundle = tiny_folder / "model.caan"
    images = index_items(native, bundle, Images(native, FEATURES, LENGTHS), tmp_path / "images", None, options)
    assert differ(native.score_matrix(images, CAPTIONS), onnx.score_matrix(images, CAPTIONS)) <= 1e-5
    expected = onnx.search_many(CAPTIONS, images, 5)
    for actual, hits in zip(native.search_many(CAPTIONS, images, 5), expected, strict=True):
        assert differ(np.array([hit.score for hit in actual]), np.array([hit.score for hit in hits])) <= 1e-5
    texts = IndexOptions(options.dtype)
    captions = index_items(native, bundle, Captions(native, CAPTIONS), tmp_path / "captions", None, texts)
    hits = native.search(FEATURES[0], captions, 40)
    best = onnx.search(FEATURES[0], captions, 40)
    assert differ(np.array([hit.score for hit in hits]), np.array([hit.score for hit in best])) <= 1e-5


def test_half_a_gallery_is_read_in_place(both, tiny_folder, tmp_path):
    native, _ = both
    source = Images(native, FEATURES)
    half = index_items(native, tiny_folder / "model.caan", source, tmp_path / "g", None, IndexOptions("float16"))
    (tile,) = tiles_of(native.backend, Choice(1), half, native.encode_captions(CAPTIONS[:1]))
    assert tile.image_states.dtype == np.float16 and np.shares_memory(tile.image_states, half.states)


def test_a_score_matrix_in_a_file(both, tmp_path):
    native, onnx = both
    gallery = native.encode_images(FEATURES, LENGTHS)
    actual = native.score_matrix(gallery, CAPTIONS, out=tmp_path / "scores.npy")
    assert isinstance(actual, np.memmap)
    assert differ(actual, onnx.score_matrix(gallery, CAPTIONS)) <= 1e-5


def test_it_explains_as_onnxruntime_does(both):
    native, onnx = both
    ours, theirs = (retriever.explain(FEATURES[0], "w1 w2 w3") for retriever in (native, onnx))
    assert ours.score == theirs.score


def test_batched_queries_get_what_single_ones_do(both):
    native, _ = both
    gallery = native.encode_images(FEATURES, LENGTHS)
    expected = [native.search(caption, gallery, 3) for caption in CAPTIONS]
    with BatchingRetriever(native) as batching, ThreadPoolExecutor(8) as callers:
        actual = list(callers.map(lambda caption: batching.search(caption, gallery, 3), CAPTIONS))
    for ours, theirs in zip(actual, expected, strict=True):
        assert differ(np.array([h.score for h in ours]), np.array([h.score for h in theirs])) <= 2e-6


def test_threads_share_it(tiny_folder):
    native = Retriever.open(tiny_folder / "model.caan", "native", threads=3)
    gallery = native.encode_images(FEATURES, LENGTHS)
    expected = native.score_matrix(gallery, CAPTIONS)
    with ThreadPoolExecutor(8) as pool:
        for actual in pool.map(lambda _: native.score_matrix(gallery, CAPTIONS), range(24)):
            assert (actual == expected).all()


def test_a_forked_process_scores_with_threads_of_its_own(tiny_folder):
    native = Retriever.open(tiny_folder / "model.caan", "native", threads=3)
    gallery, texts = native.encode_images(FEATURES, LENGTHS), native.encode_captions(CAPTIONS)
    expected = native.score_matrix(gallery, texts)
    child = os.fork()
    if child == 0:
        signal.alarm(60)  # ends a hanging child
        same = (native.score_matrix(gallery, texts) == expected).all()
        os._exit(0 if same else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert (native.score_matrix(gallery, texts) == expected).all()


def test_there_is_nothing_to_tune(both):
    native, onnx = both
    assert is_worth_tuning(onnx.backend, 1 << 40) and not is_worth_tuning(native.backend, 1 << 40)
    tuning = Retriever(native.backend).tune(native.encode_images(FEATURES))
    assert len(tuning.query) == len(tuning.pairs) == 1


def test_its_fingerprint_and_limits(both, tiny_folder):
    backend = both[0].backend
    assert (backend.name, backend.device, backend.precision) == ("native", "cpu", "fp32")
    assert backend.model.encoders == both[1].backend.model.encoders
    assert caan_native.Scorer.__name__ == "Scorer" and "native" in backend.fingerprint
    assert "scorer" not in backend._sessions  # it would waste memory and time


@pytest.fixture(scope="module")
def wide(tmp_path_factory):
    """A bundle with products long enough for rounding to show: D = d = 96."""
    folder = tmp_path_factory.mktemp("wide")
    words = {word: number for number, word in enumerate([*SPECIAL_TOKENS, *WORDS])}
    save_checkpoint(folder / "model.pt", CAAN(CaanConfig(12, 96, 6, 96, len(words))), Vocabulary(words))
    export_checkpoint(load_checkpoint(folder / "model.pt"), folder / "model.pt", folder / "model.caan")
    return folder / "model.caan"


@needs_bfloat16
def test_bfloat16_is_close_with_fp32s_galleries(wide):
    half, whole = (Retriever.open(wide, "native", precision) for precision in ("bf16", "fp32"))
    assert half.backend.model.encoders == whole.backend.model.encoders
    gallery = whole.encode_images(FEATURES, LENGTHS)
    actual, expected = half.score_matrix(gallery, CAPTIONS), whole.score_matrix(gallery, CAPTIONS)
    assert 0 < differ(actual, expected) <= 5e-3
    # one gallery on disk serves both, float16 or not
    assert half.backend.state_dtype == whole.backend.state_dtype == np.float32


@needs_bfloat16
def test_auto_takes_it_for_bfloat16(tiny_folder):
    backend = Retriever.open(tiny_folder / "model.caan", precision="bf16").backend
    assert (backend.name, backend.precision) == ("native", "bf16")


def test_half_precision_states_are_scored_in_float32(tiny_bundle):
    add_half_precision(tiny_bundle)
    native, whole = (Retriever.open(tiny_bundle, "native", precision) for precision in ("fp16", "fp32"))
    assert native.backend.state_dtype == np.float16
    gallery, texts = native.encode_images(FEATURES, LENGTHS), native.encode_captions(CAPTIONS)
    encoder, text_encoder = whole.backend.model.encoders["image"], whole.backend.model.encoders["text"]
    widened = replace(gallery, encoder=encoder, states=gallery.states.astype(np.float32))
    widened_texts = replace(texts, encoder=text_encoder, states=texts.states.astype(np.float32))
    assert (native.score_matrix(gallery, texts) == whole.score_matrix(widened, widened_texts)).all()


def test_a_bundle_without_the_weights_names_the_export_command(tiny_bundle):
    (tiny_bundle / SCORER_WEIGHTS).unlink()
    replace_bundle(tiny_bundle)
    with pytest.raises(BundleError, match=r"exported before .* export the checkpoint again: caan-export"):
        Retriever.open(tiny_bundle, "native")
    assert Retriever.open(tiny_bundle).backend.name == "onnxruntime"


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"precision": "int8"}, "scores in fp32, bf16, fp16, not in int8; use backend 'onnxruntime'"),
        ({"precision": "fp16"}, "has no precision 'fp16'; it has: fp32"),
        ({"device": "cuda"}, "runs on device 'cpu'; on 'cuda' use 'triton' or 'onnxruntime'"),
    ],
)
def test_unsupported_options_are_refused(tiny_folder, options, says):
    with pytest.raises(InputError, match=says):
        Retriever.open(tiny_folder / "model.caan", "native", **options)


def test_a_processor_without_bfloat16_is_told_so(tiny_folder, monkeypatch):
    monkeypatch.setattr(caan_native, "has_native_bfloat16", lambda: False)
    for backend in ("native", "auto"):
        with pytest.raises(MissingError, match=r"no instructions for bfloat16.*use precision fp32"):
            Retriever.open(tiny_folder / "model.caan", backend, "bf16")


def test_non_contiguous_states_are_never_passed_on(both):
    """The module would refuse them."""
    native, _ = both
    one = native.encode_images(FEATURES[:1])
    strided = np.repeat(one.states, 2, axis=0)[::2]
    gallery = Gallery("image", one.encoder, strided, offsets_of(one.lengths))
    with pytest.raises(TypeError):
        native.score_matrix(gallery, CAPTIONS[:1])


def test_it_loads_neither_onnxruntime_s_scorer_nor_pytorch(tiny_folder):
    from tests.test_imports import HEAVY, loaded_by

    loaded = loaded_by(
        "from caan.runtime import Retriever\n"
        f"assert Retriever.open({str(tiny_folder / 'model.caan')!r}, 'native').backend.name == 'native'\n"
    )
    assert "caan_native" in loaded and loaded & HEAVY == {"onnxruntime"}
    assert sys.modules["caan_native"] is caan_native
