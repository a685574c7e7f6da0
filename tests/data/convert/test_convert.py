"""Every form gives the same data set in SCAN's form, captions find their images, and interruptions lose nothing."""

import json

import numpy as np
import pytest

from caan.data.convert import writing
from caan.data.convert.convert import ConvertOptions, convert
from caan.data.scan import open_split
from caan.errors import DataError, OutputError
from tests.conftest import tree
from tests.data.convert.conftest import COUNTS, FORMS, NAMES, karpathy, npz_folder, tsv


def needs_package(form):
    if form.endswith(("h5", "hdf5")):
        pytest.importorskip("h5py", reason="reads HDF5: pip install '.[data]'")
    if form.endswith("lmdb"):
        pytest.importorskip("lmdb", reason="reads LMDB: pip install '.[data]'")


def json_lines(path, names=NAMES, counts=(2, 2, 2, 2)):
    lines = [
        json.dumps({"id": name, "captions": [f"{name} {k}" for k in range(count)]})
        for name, count in zip(names, counts, strict=True)
    ]
    path.write_text("\n".join(lines))
    return path


def in_order(folder, split="test"):
    """{id: (features, boxes or None)} without padding."""
    ids = (folder / f"{split}_ids.txt").read_text().splitlines()
    features, lengths = np.load(folder / f"{split}_ims.npy"), np.load(folder / f"{split}_lengths.npy")
    path = folder / f"{split}_boxes.npy"
    boxes = np.load(path) if path.exists() else [None] * len(ids)
    assert all(not features[n, length:].any() for n, length in enumerate(lengths))
    return {
        name: (features[n, : lengths[n]], None if boxes[n] is None else boxes[n][: lengths[n]])
        for n, name in enumerate(ids)
    }


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_images(world, tmp_path, form):
    needs_package(form)
    make, has_boxes = FORMS[form]
    source = make(world, tmp_path / form)
    names = tmp_path / "names.txt" if form == "array" else None
    if names is not None:
        names.write_text("\n".join(NAMES))
    (written,) = convert([source], tmp_path / "data", ConvertOptions(names=names))
    assert (written.split, written.images, written.captions, written.regions) == ("test", 4, 0, (1, 4))
    found = in_order(tmp_path / "data")
    assert {name.removesuffix(".jpg") for name in found} == set(NAMES)
    for name, (features, boxes) in found.items():
        n = NAMES.index(name.removesuffix(".jpg"))
        np.testing.assert_array_equal(features, world.features[n])
        assert (boxes is not None) == has_boxes
        if has_boxes:
            np.testing.assert_allclose(boxes, world.relative[n], atol=1e-6)


@pytest.mark.parametrize("form", ["plain.tsv", "npz", "groups.h5"])
def test_karpathys_captions_find_their_images_in_every_split(world, tmp_path, form):
    needs_package(form)
    source = FORMS[form][0](world, tmp_path / form)
    written = convert([source], tmp_path / "data", ConvertOptions(captions=karpathy(tmp_path / "dataset.json")))
    assert {part.split: (part.images, part.captions) for part in written} == {
        "train": (2, 10),
        "dev": (1, 5),
        "test": (1, 5),
    }
    train, test = open_split(tmp_path / "data", "train"), open_split(tmp_path / "data", "test")
    assert train.ids == ["1000092795.jpg", "COCO_train2014_000000000007.jpg"]
    assert train.captions[:2] == ["Caption 0 of 0 .", "Caption 1 of 0 ."]
    np.testing.assert_array_equal(train.regions(1), world.features[3])
    np.testing.assert_array_equal(test.regions(0), world.features[2])
    assert train.lengths.tolist() == [3, 2] and test.lengths is None


def test_one_split_of_karpathys(world, tmp_path):
    options = ConvertOptions(captions=karpathy(tmp_path / "dataset.json"), split="val")
    convert([tsv(world, tmp_path / "a.tsv")], tmp_path / "data", options)
    assert sorted(path.name for path in (tmp_path / "data").glob("*_ims.npy")) == ["dev_ims.npy"]


def test_a_split_without_any_features_is_left_out_with_a_message(world, tmp_path):
    told = []
    source = tsv(world, tmp_path / "a.tsv", [2])
    options = ConvertOptions(captions=karpathy(tmp_path / "dataset.json"))
    (written,) = convert([source], tmp_path / "data", options, told.append)
    assert written.split == "test"
    assert any("the split train" in line and "left out: none of its 2 images" in line for line in told)


def test_features_named_by_karpathys_imgid(world, tmp_path):
    """A last resort: only if no image is found by its name."""
    names = ["3", "0", "2", "1"]
    source = tsv(type(world)(names, world.features, world.boxes), tmp_path / "a.tsv")
    convert([source], tmp_path / "data", ConvertOptions(captions=karpathy(tmp_path / "dataset.json"), split="test"))
    np.testing.assert_array_equal(open_split(tmp_path / "data").regions(0), world.features[names.index("2")])


def test_karpathys_imgid_is_no_name_beside_real_ones(world, tmp_path):
    """Image 1, 10002456.jpg, lacks features, and some other picture is called 1."""
    source = tsv(type(world)(["1000092795", "1", "391895", "7"], world.features, world.boxes), tmp_path / "a.tsv")
    dataset = json.loads(karpathy(tmp_path / "dataset.json").read_text())
    for image in dataset["images"]:
        image["split"] = "test"
    (tmp_path / "dataset.json").write_text(json.dumps(dataset))
    with pytest.raises(DataError, match=r"1 of 4 images .* have no features: '10002456.jpg'"):
        convert([source], tmp_path / "data", ConvertOptions(captions=tmp_path / "dataset.json"))


CAPTIONS = {
    "lines.jsonl": "\n".join(json.dumps({"id": n, "caption": f"{n} {k}"}) for k in range(2) for n in NAMES),
    "list.json": json.dumps([{"filename": f"{n}.jpg", "captions": [f"{n} 0", f"{n} 1"]} for n in NAMES]),
    "dict.json": json.dumps({n: [f"{n} 0", f"{n} 1"] for n in NAMES}),
    "coco.json": json.dumps(
        {
            "images": [{"id": int(n), "file_name": f"COCO_val2014_{int(n):012}.jpg"} for n in NAMES],
            "annotations": [{"image_id": int(n), "id": 1, "caption": f"{n} {k}"} for n in NAMES for k in range(2)],
        }
    ),
    "results.token": "".join(f"{n}.jpg#{k}\t{n} {k}\n" for n in NAMES for k in range(2)),
    "captions.csv": "image,caption\n" + "".join(f"{n}.jpg,{n} {k}\n" for n in NAMES for k in range(2)),
    "results.csv": "image_name| comment_number| comment\n"
    + "".join(f"{n}.jpg| {k}| {n} {k}\n" for n in NAMES for k in range(2)),
    "plain.txt": "".join(f"{n} {k}\n" for n in NAMES for k in range(2)),
}


@pytest.mark.parametrize("name", CAPTIONS)
def test_captions_in_every_form(world, tmp_path, name):
    (tmp_path / name).write_text(CAPTIONS[name])
    options = ConvertOptions(captions=tmp_path / name)
    convert([tsv(world, tmp_path / "a.tsv")], tmp_path / "data", options)
    split = open_split(tmp_path / "data")
    assert split.captions == [f"{n} {k}" for n in NAMES for k in range(2)]
    assert split.image_of_caption.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    np.testing.assert_array_equal(split.regions(2), world.features[2])


def test_a_csv_caption_that_holds_commas(world, tmp_path):
    lines = [f'{n}.jpg,"a {n} , quoted"\n{n}.jpg,b {n} , not quoted\n' for n in NAMES]
    (tmp_path / "c.csv").write_text("image,caption\n" + "".join(lines))
    convert([tsv(world, tmp_path / "a.tsv")], tmp_path / "data", ConvertOptions(captions=tmp_path / "c.csv"))
    assert open_split(tmp_path / "data").captions[:2] == ["a 1000092795 , quoted", "b 1000092795 , not quoted"]


def test_a_plain_list_with_the_image_of_each_caption(world, tmp_path):
    (tmp_path / "caps.txt").write_text("a\nb\nc\n")
    (tmp_path / "ids.txt").write_text("391895\n391895\n7\n")
    options = ConvertOptions(captions=tmp_path / "caps.txt", ids=tmp_path / "ids.txt")
    convert([tsv(world, tmp_path / "a.tsv")], tmp_path / "data", options)
    split = open_split(tmp_path / "data")
    assert (split.ids, split.image_of_caption.tolist()) == (["391895", "7"], [0, 0, 1])
    np.testing.assert_array_equal(split.regions(1), world.features[3])


def test_unequal_numbers_of_captions_are_kept_with_the_image_of_each(world, tmp_path):
    captions = json_lines(tmp_path / "c.jsonl", counts=(5, 6, 5, 7))
    source = tsv(world, tmp_path / "a.tsv")
    convert([source], tmp_path / "data", ConvertOptions(captions=captions))
    split = open_split(tmp_path / "data")
    assert np.bincount(split.image_of_caption).tolist() == [5, 6, 5, 7] and split.ids == NAMES
    convert([source], tmp_path / "five", ConvertOptions(captions=captions, captions_per_image=5))
    assert open_split(tmp_path / "five").captions[5:10] == [f"{NAMES[1]} {k}" for k in range(5)]
    with pytest.raises(DataError, match="image '1000092795' has 5 captions, fewer than 6"):
        convert([source], tmp_path / "six", ConvertOptions(captions=captions, captions_per_image=6))


def test_captions_without_features_are_counted_and_named(world, tmp_path):
    captions = json_lines(tmp_path / "c.jsonl", [*NAMES, "x1", "x2", "x3", "x4"], [1] * 8)
    source = tsv(world, tmp_path / "a.tsv")
    with pytest.raises(DataError, match=r"4 of 8 images of .*c.jsonl have no features: 'x1', 'x2', 'x3', …; extract"):
        convert([source], tmp_path / "data", ConvertOptions(captions=captions))
    assert not (tmp_path / "data").exists()
    (written,) = convert([source], tmp_path / "data", ConvertOptions(captions=captions, skip_unmatched=True))
    assert written.images == 4


def test_captions_of_other_images_altogether_show_both_names(world, tmp_path):
    captions = json_lines(tmp_path / "c.jsonl", ["a.jpg", "b.jpg"], [1, 1])
    with pytest.raises(DataError, match=r"named 'a.jpg', 'b.jpg', the features '1000092795', '10002456', '391895', …"):
        convert(
            [tsv(world, tmp_path / "a.tsv")], tmp_path / "data", ConvertOptions(captions=captions, skip_unmatched=True)
        )


def test_several_tsv_files_are_one_source_and_repeated_images_are_taken_once(world, tmp_path):
    parts = [tsv(world, tmp_path / "train.tsv.0", [0, 1]), tsv(world, tmp_path / "train.tsv.1", [1, 2, 3])]
    convert(parts, tmp_path / "data", ConvertOptions())
    assert list(in_order(tmp_path / "data")) == NAMES


def test_half_precision(world, tmp_path):
    convert([tsv(world, tmp_path / "a.tsv")], tmp_path / "data", ConvertOptions(dtype="float16"))
    features = np.load(tmp_path / "data" / "test_ims.npy")
    assert features.dtype == np.float16
    np.testing.assert_array_equal(features, world.padded(world.features).astype(np.float16))


@pytest.fixture
def three_blocks(world, tmp_path, monkeypatch):
    """A source of four images that is written in blocks of two, and the bytes it becomes."""
    monkeypatch.setattr(writing, "_BLOCK", 2)
    source = tsv(world, tmp_path / "a.tsv")
    options = ConvertOptions(captions=json_lines(tmp_path / "c.jsonl"))
    convert([source], tmp_path / "whole", options)
    return source, options, tree(tmp_path / "whole")


@pytest.mark.parametrize("at", range(12))
def test_an_interrupted_conversion_resumes_and_writes_the_same_bytes(three_blocks, tmp_path, monkeypatch, at):
    source, options, expected = three_blocks
    calls = {"n": 0}

    def interrupting(function):
        def call(*arguments, **keywords):
            calls["n"] += 1
            if calls["n"] == at + 1:
                raise KeyboardInterrupt
            return function(*arguments, **keywords)

        return call

    with monkeypatch.context() as patch:
        patch.setattr(writing, "_checked", interrupting(writing._checked))
        patch.setattr(writing, "_note", interrupting(writing._note))
        patch.setattr(writing, "write_lines", interrupting(writing.write_lines))
        patch.setattr(writing, "_move", interrupting(writing._move))
        with pytest.raises(KeyboardInterrupt):
            convert([source], tmp_path / "data", options)
    assert not (tmp_path / "data" / "test_ims.npy").exists()
    convert([source], tmp_path / "data", options)
    assert tree(tmp_path / "data") == expected


def test_resuming_reads_only_the_rest(three_blocks, tmp_path, monkeypatch):
    source, options, _ = three_blocks
    read = []
    real = writing._checked
    with monkeypatch.context() as patch:

        def stopping(source, image, *rest):
            if image == 3:
                raise KeyboardInterrupt
            return real(source, image, *rest)

        patch.setattr(writing, "_checked", stopping)
        with pytest.raises(KeyboardInterrupt):
            convert([source], tmp_path / "data", options)
    monkeypatch.setattr(
        writing, "_checked", lambda source, image, *rest: read.append(image) or real(source, image, *rest)
    )
    convert([source], tmp_path / "data", options)
    assert read == [2, 3]


def test_unfinished_work_on_other_data_is_not_resumed(world, three_blocks, tmp_path, monkeypatch):
    source, options, _ = three_blocks
    with monkeypatch.context() as patch:
        patch.setattr(writing, "write_lines", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            convert([source], tmp_path / "data", options)
    changed = [features + 1 for features in world.features]
    other = tsv(type(world)(world.names, changed, world.boxes), tmp_path / "a.tsv")
    convert([other], tmp_path / "data", options)
    np.testing.assert_array_equal(in_order(tmp_path / "data")[NAMES[0]][0], changed[0])


def test_a_split_is_replaced_only_when_asked_and_wholly(world, tmp_path):
    source = npz_folder(world, tmp_path / "npz")
    convert([source], tmp_path / "data", ConvertOptions(captions=json_lines(tmp_path / "c.jsonl")))
    before = tree(tmp_path / "data")
    with pytest.raises(OutputError, match=r"test_ims\.npy exists already; add --overwrite"):
        convert([source], tmp_path / "data", ConvertOptions())
    assert tree(tmp_path / "data") == before
    (tmp_path / "data" / "vocab.json").write_text("{}")
    convert([source], tmp_path / "data", ConvertOptions(overwrite=True))
    names = sorted(path.name for path in (tmp_path / "data").iterdir())
    assert names == ["test_boxes.npy", "test_ids.txt", "test_ims.npy", "test_lengths.npy", "vocab.json"]
    convert([source], tmp_path / "data", ConvertOptions(split="train"))  # beside the other split
    assert len(in_order(tmp_path / "data", "train")) == len(COUNTS)
