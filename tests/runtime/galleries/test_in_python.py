"""Galleries created, changed and saved from Python, compared with the commands and with a list."""

import dataclasses
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from caan.errors import BundleError, CaanWarning, DataError, InputError, OutputError
from caan.runtime import Gallery, Retriever
from caan.runtime.galleries import writer
from caan.runtime.index import bundle_of, precision_of
from tests.conftest import tree
from tests.runtime.galleries.conftest import Counted, names


def same_items(one, other):
    return (
        (one.states == other.states).all()
        and (one.offsets == other.offsets).all()
        and one.ids == other.ids
        and (one.live == other.live).all()
        and (one.kind, one.encoder, one.compact) == (other.kind, other.encoder, other.compact)
    )


@settings(max_examples=25)
@given(st.integers(1, 300), st.booleans(), st.booleans(), st.integers(0, 2**32 - 1))
def test_saving_and_opening_preserves_a_gallery(retriever, tmp_path, items, with_ids, some_gone, seed):
    generator = np.random.default_rng(seed)
    features = generator.standard_normal((items, 5, 12)).astype(np.float32)
    ids = [f"bild ä {n}\n" for n in range(items)] if with_ids else None
    gallery = retriever.encode_images(features, generator.integers(1, 6, items), ids=ids)
    if some_gone and items > 1:
        gallery = dataclasses.replace(gallery, deleted=np.arange(items) == generator.integers(items))
    saved = gallery.save(tmp_path / "saved", overwrite=True)
    assert same_items(gallery, saved) and same_items(gallery, Gallery.open(tmp_path / "saved", "memory"))
    assert retriever.search("w1 w2", saved) == retriever.search("w1 w2", gallery)


def test_captions_are_saved_too(retriever, tmp_path):
    gallery = retriever.encode_captions([f"w{n} w{n + 1}" for n in range(19)])
    saved = gallery.save(tmp_path / "texts")
    image = np.ones((5, 12), np.float32)
    assert retriever.search(image, saved, 7) == retriever.search(image, gallery, 7)


def test_a_saved_gallery_knows_its_bundle_wherever_it_is_saved(retriever, tiny_folder, features, tmp_path):
    saved = retriever.encode_images(features[:3]).save(tmp_path / "a" / "saved")
    again = saved.save(tmp_path / "b")
    for gallery, folder in ((saved, tmp_path / "a" / "saved"), (again, tmp_path / "b")):
        assert bundle_of(gallery, folder) == tiny_folder / "model.caan"
        assert precision_of(gallery, tiny_folder / "model.caan") == "fp32"


def test_nothing_is_replaced_without_overwrite(retriever, features, tmp_path):
    gallery = retriever.encode_images(features[:3])
    gallery.save(tmp_path / "saved")
    before = tree(tmp_path)
    with pytest.raises(OutputError, match="exists already; add --overwrite"):
        gallery.save(tmp_path / "saved")
    with pytest.raises(OutputError, match="exists already"):
        Gallery.create(tmp_path / "saved", retriever, features[:3])
    assert tree(tmp_path) == before
    own = Gallery.open(tmp_path / "saved")
    assert same_items(own.save(tmp_path / "saved", overwrite=True), gallery)


def test_create_writes_what_the_command_writes(run, retriever, tiny_folder, features, tmp_path):
    np.save(tmp_path / "features.npy", features[:200])
    (tmp_path / "ids.txt").write_text("".join(f"{name}\n" for name in names(200)))
    (tmp_path / "texts.txt").write_text("w1 w2\nw3\n")
    more = ["--ids", tmp_path / "ids.txt", "--compact"]
    for items, options, arguments in (
        (features[:200], {"ids": names(200), "compact": True}, ["features.npy", *more]),
        (features[:200], {"dtype": "float32"}, ["features.npy", "--dtype", "float32"]),
        (["w1 w2", "w3"], {}, ["texts.txt"]),
    ):
        command = ["index", tiny_folder / "model.caan", tmp_path / arguments[0], *arguments[1:]]
        assert run(*command, "-o", tmp_path / "command", "--overwrite").code == 0
        Gallery.create(tmp_path / "python", retriever, items, overwrite=True, **options)
        assert tree(tmp_path / "python") == tree(tmp_path / "command")


def test_an_interrupted_create_resumes(retriever, features, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        Gallery.create(tmp_path / "gallery", Retriever(Counted(retriever.backend, 300)), features)
    counted = Counted(retriever.backend)
    gallery = Gallery.create(tmp_path / "gallery", Retriever(counted), features)
    assert len(gallery) == len(features) and 0 < counted.images < len(features)


def test_lengths_are_for_images(retriever, features, tmp_path):
    gallery = Gallery.create(tmp_path / "gallery", retriever, features[:4], lengths=[1, 5, 2, 3])
    assert gallery.lengths.tolist() == [1, 5, 2, 3]
    with pytest.raises(InputError, match="lengths is for the regions of images"):
        Gallery.create(tmp_path / "texts", retriever, ["w1"], lengths=[1])


steps = st.lists(
    st.one_of(
        st.tuples(st.just("append"), st.integers(1, 40)),
        st.tuples(st.just("delete"), st.lists(st.integers(0, 200), min_size=1, max_size=12)),
        st.tuples(st.just("compact"), st.none()),
    ),
    max_size=8,
)


@settings(max_examples=25)
@given(st.integers(1, 140), st.booleans(), steps)
def test_a_gallery_changes_as_a_list_does(retriever, features, tmp_path, first, with_ids, steps):
    """After any appends, deletions and compactions, items and states equal those of a list."""
    whole = retriever.encode_images(features)
    number = 0

    def new_items(count):
        nonlocal number
        start, number = number, number + count
        ids = [f"id {n}" for n in range(start, number)] if with_ids else None
        return [*range(start, number)], features[start:number], ids

    taken, items, ids = new_items(first)
    model = list(taken)
    gallery = Gallery.create(tmp_path / "gallery", retriever, items, ids=ids, dtype="float32", overwrite=True)
    for step, value in steps:
        before, live = gallery, [index for index, item in enumerate(model) if item is not None]
        if step == "append":
            taken, items, ids = new_items(value)
            gallery = gallery.append(retriever, items, ids=ids)
            model += taken
        elif step == "delete":
            removed = sorted({live[n % len(live)] for n in value}) if live else []
            gallery = gallery.delete([gallery.id_of(index) if index % 2 else index for index in removed])
            model = [None if index in removed else item for index, item in enumerate(model)]
        elif live:
            gallery = gallery.compact_storage()
            model = [item for item in model if item is not None]
        assert gallery.is_current
        assert before.is_current == (before.origin.description == gallery.origin.description)
    live = [index for index, item in enumerate(model) if item is not None]
    assert len(gallery) == len(model) and gallery.live.tolist() == live
    for index in live:
        states, _ = gallery.gather(np.array([index]))
        expected, _ = whole.gather(np.array([model[index]]))
        assert np.abs(states - expected).max() <= 1e-6
        assert gallery.id_of(index) == (f"id {model[index]}" if with_ids else str(index))


def test_compaction_frees_space_and_keeps_the_results(retriever, features, tmp_path):
    gallery = Gallery.create(tmp_path / "gallery", retriever, features, ids=names(600))
    (tmp_path / "gallery" / "notes.txt").write_text("mine")
    less = gallery.delete(range(100, 500))
    size = (tmp_path / "gallery" / "states.bin").stat().st_size
    before = retriever.search("w1 w2", less, 20)
    compacted = less.compact_storage()
    assert (tmp_path / "gallery" / "states.bin").stat().st_size == size // 3
    assert [(hit.id, hit.score) for hit in retriever.search("w1 w2", compacted, 20)] == [
        (hit.id, pytest.approx(hit.score, abs=2e-6)) for hit in before
    ]
    assert compacted.deleted is None and len(compacted) == 200
    assert (tmp_path / "gallery" / "notes.txt").read_text() == "mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["gallery"]
    # Readers that had it open keep using the old files.
    assert retriever.search("w1 w2", less, 20) == before and not less.is_current and less.reload().is_current
    assert compacted.compact_storage().is_current  # nothing is deleted, so nothing happens


def test_invalid_compactions(run, refused, retriever, features, tmp_path, monkeypatch):
    gallery = Gallery.create(tmp_path / "gallery", retriever, features[:5])
    assert "no deleted items, nothing to do" in run("compact", tmp_path / "gallery").out
    gallery.delete([0, 1])
    real = writer.GalleryWriter.publish

    def meanwhile(self, lengths, ids):
        monkeypatch.setattr(writer.GalleryWriter, "publish", real)
        Gallery.open(tmp_path / "gallery").delete([2])
        return real(self, lengths, ids)

    monkeypatch.setattr(writer.GalleryWriter, "publish", meanwhile)
    with pytest.raises(OutputError, match="was changed by another process meanwhile"):
        gallery.compact_storage()
    assert Gallery.open(tmp_path / "gallery").live.tolist() == [3, 4]
    Gallery.open(tmp_path / "gallery").delete([3, 4])
    refused("compact", "gallery", says=["every item of gallery is deleted", "remove the folder, or append"])
    refused("compact", "nowhere", says=["nowhere is not a gallery", "caan index"])


def test_an_interrupted_append_is_discarded_with_a_warning(run, retriever, features, tmp_path):
    gallery = Gallery.create(tmp_path / "gallery", retriever, features[:200]).delete([0])
    with pytest.raises(KeyboardInterrupt):
        gallery.append(Retriever(Counted(retriever.backend, 200)), features[200:])
    assert "an append was interrupted; rerun it to resume" in run("inspect", tmp_path / "gallery").out
    with pytest.warns(CaanWarning, match="an interrupted append .* is discarded; append those items again"):
        compacted = gallery.compact_storage()
    assert len(compacted) == 199
    assert {path.name for path in (tmp_path / "gallery").iterdir()} == {"gallery.json", "states.bin", "lengths.bin"}


def test_an_index_into_a_replaced_gallery_deletes_nothing(retriever, features, tmp_path):
    """After a compaction or another `caan index`, index 3 means another item."""
    stale = Gallery.create(tmp_path / "gallery", retriever, features[:8])
    stale.delete([0]).compact_storage()
    with pytest.raises(OutputError, match="changed by another process meanwhile"):
        stale.delete([3])
    assert len(Gallery.open(tmp_path / "gallery").live) == 7
    # After appends and deletions by others it is still the same item.
    current = stale.reload()
    current.append(retriever, features[8:10])
    current.delete([1])
    assert current.delete([2]).live.tolist() == [0, 3, 4, 5, 6, 7, 8]


def test_a_gallery_in_memory_has_no_folder(retriever, features):
    gallery = retriever.encode_images(features[:3])
    assert gallery.is_current
    says = r"exists only in memory, with no folder to .*; call save\(folder\) first"
    append, delete = lambda: gallery.append(retriever, features), lambda: gallery.delete([0])
    for use in (gallery.reload, gallery.compact_storage, append, delete):
        with pytest.raises(InputError, match=says):
            use()


def test_a_loaded_gallery_knows_its_folder(retriever, features, tmp_path):
    loaded = retriever.load(Gallery.create(tmp_path / "gallery", retriever, features[:5]))
    assert loaded.is_current
    loaded.append(retriever, features[5:7])
    assert not loaded.is_current and len(loaded.reload()) == 7 and len(loaded) == 5


def test_a_pickled_gallery_knows_whether_it_is_current(retriever, features, tmp_path):
    gallery = Gallery.create(tmp_path / "gallery", retriever, features[:5])
    pickled = pickle.dumps(gallery)
    assert pickle.loads(pickled).is_current
    gallery.delete([1])
    assert not pickle.loads(pickled).is_current and pickle.loads(pickled).live.tolist() == [0, 1, 2, 3, 4]
    assert not pickle.loads(pickle.dumps(gallery)).is_current


def test_a_gallery_whose_folder_is_gone_is_not_current(retriever, features, tmp_path):
    gallery = Gallery.create(tmp_path / "gallery", retriever, features[:5])
    (tmp_path / "gallery").rename(tmp_path / "elsewhere")
    assert not gallery.is_current
    with pytest.raises(BundleError, match="is not a gallery"):
        gallery.reload()


def test_swapped_arguments_are_named(retriever, features, tmp_path):
    with pytest.raises(
        InputError, match=r"not by an array float32 .*; write Gallery.create\(folder, retriever, items\)"
    ):
        Gallery.create(tmp_path / "gallery", features, retriever)
    gallery = Gallery.create(tmp_path / "gallery", retriever, features[:5])
    with pytest.raises(InputError, match=r"write gallery.append\(retriever, items\)"):
        gallery.append(features, retriever)
    with pytest.raises(InputError, match="captions must be a list of captions, not one string"):
        gallery.append(retriever, "features.npy")


def test_states_that_were_changed_are_not_saved(retriever, features, tmp_path):
    gallery = Gallery.create(tmp_path / "gallery", retriever, features[:5])
    with (tmp_path / "gallery" / "states.bin").open("r+b") as file:
        file.write(b"\1\2\3")
    for write in (lambda: gallery.save(tmp_path / "copy"), lambda: gallery.delete([0]).compact_storage()):
        with pytest.raises(BundleError, match=r"states\.bin was changed"):
            write()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["gallery"]


def test_deletions_name_missing_items(retriever, features, tmp_path):
    gallery = Gallery.create(tmp_path / "gallery", retriever, features[:5], ids=names(5))
    for items, says in ((["x.jpg"], "has no item 'x.jpg'"), ([9], "has no index '9'"), (["1.jpg", 1, 7], "index '7'")):
        with pytest.raises(DataError, match=says):
            gallery.delete(items)
    with pytest.raises(InputError, match="a list or set of ids, not a str"):
        gallery.delete("1.jpg")
    assert gallery.is_current
    assert gallery.delete({"1.jpg", 1}).live.tolist() == [0, 2, 3, 4]
