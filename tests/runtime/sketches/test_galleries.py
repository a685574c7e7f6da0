"""A gallery's sketches on disk: written, appended, resumed, deleted, damaged."""

import json
import shutil

import numpy as np
import pytest

from caan.errors import BundleError, CaanWarning
from caan.runtime import Gallery, Retriever
from caan.runtime.index import Images, IndexOptions, index_items
from tests.conftest import tree
from tests.runtime.galleries.conftest import Counted


def rows(gallery):
    return gallery.sketches.read()


def test_indexing_writes_them_and_measures_recall(retriever, features, photos, galleries):
    assert (rows(photos) == rows(retriever.sketch(retriever.encode_images(features), measure=False)))[:].mean() > 0.95
    curve = photos.sketches.curve
    assert (curve.items, curve.sample, curve.k) == (len(photos), len(photos), (1, 10))
    assert curve.candidates[-1] == len(photos) and curve.recall[0][-1] == 1
    assert all(low <= value <= high for r in range(2) for low, value, high in zip(
        curve.low[r], curve.recall[r], curve.high[r], strict=True))  # fmt: skip


def test_sketches_come_from_the_states_as_stored(retriever, photos):
    again = retriever.sketch(photos, measure=False)
    assert again is photos  # kept
    made = retriever._sketcher().sketches(photos)
    assert np.array_equal(made, rows(photos))


def test_an_append_equals_a_gallery_made_at_once(retriever, features, photos, tmp_path):
    first = Gallery.create(tmp_path / "parts", retriever, features[:140])
    whole = first.append(retriever, features[140:])
    assert np.array_equal(rows(whole), rows(photos))
    assert whole.sketches.curve == first.sketches.curve  # not measured again
    assert len(first.sketches.read()) == 140  # the old one stays as it was
    assert retriever.search(["w1"], whole, 3, candidates=30) == retriever.search(["w1"], photos, 3, candidates=30)


@pytest.mark.parametrize("append", [False, True])
def test_an_interrupted_run_resumes_to_the_same_bytes(retriever, sketched_folder, features, tmp_path, append):
    def write(target, backend=None):
        made_by = retriever if backend is None else Retriever(backend)
        source = Images(made_by, features if not append else features[100:])
        return index_items(made_by, sketched_folder / "model.caan", source, target, None, IndexOptions(append=append))

    for name in ("whole", "resumed"):
        if append:
            Gallery.create(tmp_path / name, retriever, features[:100])
    write(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "resumed", Counted(retriever.backend, fails_at=140))
    counted = Counted(retriever.backend)
    write(tmp_path / "resumed", counted)
    assert counted.images < len(features) - (100 if append else 0)
    assert tree(tmp_path / "resumed") == tree(tmp_path / "whole")


def test_deleted_items_never_appear_and_compaction_keeps_sketches(retriever, photos):
    best = retriever.search(["w3"], photos, 4, candidates=60)
    left = photos.delete([hit.index for hit in best])
    hits = retriever.search(["w3"], left, 4, candidates=60)
    assert not {hit.index for hit in hits} & {hit.index for hit in best}
    compacted = left.compact_storage()
    assert np.array_equal(rows(compacted), np.delete(rows(photos), [hit.index for hit in best], axis=0))
    assert [hit.score for hit in retriever.search(["w3"], compacted, 4, candidates=60)] == [h.score for h in hits]


def test_saving_keeps_sketches_and_curve(retriever, galleries, tmp_path):
    for kind, gallery in galleries.items():
        saved = gallery.save(tmp_path / kind)
        assert np.array_equal(rows(saved), rows(gallery))
        assert saved.sketches.curve == gallery.sketches.curve


def test_a_gallery_made_before_gets_the_same_sketches(retriever, features, photos, tmp_path):
    plain = index_items(retriever, None, Images(retriever, features), tmp_path / "plain", None,
                        IndexOptions(sketches=False))  # fmt: skip
    assert plain.sketches is None and json.loads((tmp_path / "plain/gallery.json").read_text())["version"] == 3
    later = retriever.sketch(plain)
    assert np.array_equal(rows(later), rows(photos))
    assert later.sketches.curve == photos.sketches.curve
    assert plain.sketches is None and not plain.is_current


@pytest.mark.parametrize("options", [{"compact": True}, {"dtype": "int8"}, {"dtype": "bfloat16"}, {"dtype": "float32"}])
def test_every_form_has_sketches(retriever, features, photos, tmp_path, options):
    other = Gallery.create(tmp_path / "other", retriever, features, **options)
    assert np.abs(rows(other).astype(int) - rows(photos)).max() <= (12 if "dtype" in options else 4)
    made = retriever._sketcher().sketches(other)
    assert np.array_equal(made, rows(other))


def test_a_copy_in_another_process_searches_alike(retriever, photos):
    import pickle

    copy = pickle.loads(pickle.dumps(photos))
    assert retriever.search(["w2"], copy, 3, candidates=30) == retriever.search(["w2"], photos, 3, candidates=30)


def test_appending_with_another_sketch_is_refused(tiny_folder, photos, features):
    plain = Retriever.open(tiny_folder / "model.caan")
    before = tree(photos.origin.folder)
    with pytest.raises(BundleError, match=r"another model or sketch, so these items can't be appended.*caan sketch"):
        photos.append(plain, features[:3])
    assert tree(photos.origin.folder) == before


def test_a_changed_file_is_refused_by_name(retriever, photos):
    folder = photos.origin.folder
    content = bytearray((folder / "sketches.bin").read_bytes())
    content[200 * 16] ^= 1
    (folder / "sketches.bin").write_bytes(content)
    opened = Gallery.open(folder)  # sketches are read when first used
    with pytest.raises(BundleError, match=r"sketches.bin was changed: the sketches of items 128 to 255"):
        retriever.search(["w1"], opened, 3, candidates=30)
    assert len(retriever.search(["w1"], opened, 3)) == 3


@pytest.mark.parametrize("size", [0, 100])
def test_a_cut_or_missing_file_is_refused_by_name(photos, size):
    folder = photos.origin.folder
    if size:
        (folder / "sketches.bin").write_bytes((folder / "sketches.bin").read_bytes()[:size])
    else:
        (folder / "sketches.bin").unlink()
    with pytest.raises(BundleError, match=r"sketches.bin .*make them again: caan sketch"):
        Gallery.open(folder)


def test_a_killed_replacement_of_sketches_leaves_a_readable_gallery(retriever, photos, monkeypatch):
    """Killed after the new file, before its description: no sketches, never wrong ones."""
    from caan.runtime.galleries import changes

    folder = photos.origin.folder
    real, calls = changes.write_description, []

    def dies(*arguments):
        calls.append(arguments)
        if len(calls) == 2:
            raise KeyboardInterrupt
        real(*arguments)

    monkeypatch.setattr(changes, "write_description", dies)
    other = retriever._sketcher()
    record = changes.SketchRecord("1" * 64, other.columns)
    with pytest.raises(KeyboardInterrupt):
        changes.write_sketches(folder, photos.origin.description, record, rows(photos)[::-1].copy())
    monkeypatch.undo()
    assert Gallery.open(folder).sketches is None
    assert np.array_equal(rows(retriever.sketch(Gallery.open(folder))), rows(photos))


def test_curves_that_are_no_table_are_refused(photos, tmp_path):
    from msgspec.structs import replace

    from caan.runtime.galleries.folder import read_description, write_description

    folder = photos.origin.folder
    good = read_description(folder)
    for changes in ({"k": (10, 1)}, {"candidates": good.curve.candidates[:-1]}, {"recall": ()}):
        write_description(folder, replace(good, curve=replace(good.curve, **changes)))
        with pytest.raises(BundleError, match="not a valid description"):
            Gallery.open(folder)
    shutil.rmtree(folder)


def test_a_grown_gallery_has_a_stale_curve(retriever, features, tmp_path, recwarn):
    from caan.runtime.sketches.curve import is_stale

    small = Gallery.create(tmp_path / "small", retriever, features[:150])
    assert not is_stale(small.sketches.curve, 224) and is_stale(small.sketches.curve, 225)
    grown = small.append(retriever, features[150:])
    n = retriever.search(["w1"], small, 10, recall=0.9).candidates
    assert retriever.search(["w1"], grown, 10, recall=0.9).candidates == 2 * n  # a share, not a number
    assert not [w for w in recwarn if issubclass(w.category, CaanWarning)]
