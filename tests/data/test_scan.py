"""Data sets in SCAN's format: every layout gives the same split, and features stay on disk."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from caan.data import layout
from caan.data.layout import same_up_to_rounding
from caan.data.scan import captions_of, open_features, open_lengths, open_split, read_captions, write_split
from caan.errors import DataError

IMAGES, REGIONS, DIMENSION = 4, 3, 6
CAPTIONS = [f"caption {number}" for number in range(5 * IMAGES)]


@pytest.fixture
def features():
    return np.random.default_rng(0).standard_normal((IMAGES, REGIONS, DIMENSION)).astype(np.float32)


def write(folder, features, captions=CAPTIONS, split="test"):
    np.save(folder / f"{split}_ims.npy", features)
    (folder / f"{split}_caps.txt").write_text("".join(f"{caption}\n" for caption in captions), encoding="utf-8")


def test_one_row_per_image(tmp_path, features):
    write(tmp_path, features)
    split = open_split(tmp_path)
    np.testing.assert_array_equal(split.features, features)
    assert split.captions == CAPTIONS
    assert split.image_of_caption.tolist() == [0] * 5 + [1] * 5 + [2] * 5 + [3] * 5
    assert split.ids is None


def test_every_image_five_times_is_the_same_split(tmp_path, features):
    for name, rows in (("once", features), ("repeated", np.repeat(features, 5, axis=0))):
        (tmp_path / name).mkdir()
        write(tmp_path / name, rows)
    once, repeated = open_split(tmp_path / "once"), open_split(tmp_path / "repeated")
    np.testing.assert_array_equal(repeated.features, once.features)
    np.testing.assert_array_equal(repeated.image_of_caption, once.image_of_caption)
    assert repeated.captions == once.captions


def test_one_caption_per_image(tmp_path):
    features = np.random.default_rng(1).standard_normal((20, REGIONS, DIMENSION))
    write(tmp_path, features)
    split = open_split(tmp_path)
    assert split.features.shape == (20, REGIONS, DIMENSION)
    assert split.image_of_caption.tolist() == list(range(20))


def test_one_caption_per_image_when_a_single_group_differs(tmp_path, features):
    rows = np.repeat(features, 5, axis=0)
    rows[12] += 1
    write(tmp_path, rows)
    assert len(open_split(tmp_path).features) == 20


def test_one_caption_per_image_of_a_number_that_five_does_not_divide(tmp_path, features):
    write(tmp_path, features, CAPTIONS[:4])
    assert open_split(tmp_path).image_of_caption.tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, ">f4"])
def test_every_float_type_is_kept_as_it_is(tmp_path, features, dtype):
    write(tmp_path, features.astype(dtype))
    split = open_split(tmp_path)
    assert split.features.dtype == np.dtype(dtype)
    np.testing.assert_array_equal(split.features, features.astype(dtype))


def test_features_in_fortran_order(tmp_path, features):
    write(tmp_path, np.asfortranarray(features))
    np.testing.assert_array_equal(open_split(tmp_path).features, features)


@pytest.mark.parametrize("repeats", [1, 5])
def test_features_stay_on_disk(tmp_path, features, repeats):
    write(tmp_path, np.repeat(features, repeats, axis=0))
    split = open_split(tmp_path)
    assert isinstance(split.features, np.memmap)
    assert not split.features.flags.owndata and not split.features.flags.writeable


def test_a_file_larger_than_memory_is_opened_without_reading_it(tmp_path):
    """64 GiB of zeros, of which the disk holds nothing; read whole, they would not fit."""
    shape = (1 << 21, 8, 1024)
    with (tmp_path / "test_ims.npy").open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": shape})
        file.truncate(file.tell() + 4 * int(np.prod(shape)))
    features = open_features(tmp_path / "test_ims.npy")
    assert features.shape == shape
    assert not features[-1].any()


def test_few_rows_are_read_to_tell_the_layout(tmp_path, monkeypatch):
    write(tmp_path, np.ones((5_000, 1, 1), np.float32), ["a"] * 5_000)
    compared = []
    real = layout.same_up_to_rounding
    monkeypatch.setattr(layout, "same_up_to_rounding", lambda a, b: compared.append(1) or real(a, b))
    assert len(open_split(tmp_path).features) == 1_000
    assert len(compared) == 4 * 64


@pytest.mark.parametrize(
    "rounded",
    [
        lambda rows: rows.astype(np.float16).astype(np.float32),
        lambda rows: rows * np.float32(1 + 1e-6),
        lambda rows: rows + np.float32(1e-5) * np.sign(rows),
    ],
)
def test_copies_equal_up_to_rounding_are_one_image(tmp_path, features, rounded):
    rows = np.repeat(features, 5, axis=0)
    rows[1::2] = rounded(rows[1::2])
    write(tmp_path, rows)
    split = open_split(tmp_path)
    np.testing.assert_array_equal(split.features, rows[::5])
    assert split.layout == "every image repeated 5 times, one row per caption"


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_copies_that_hold_nan_or_infinity_are_one_image(tmp_path, features, value):
    features[2, 1, 3] = value
    write(tmp_path, np.repeat(features, 5, axis=0))
    assert len(open_split(tmp_path).features) == IMAGES


def test_nan_in_one_copy_only_is_another_image(tmp_path, features):
    rows = np.repeat(features, 5, axis=0)
    rows[7, 0, 0] = np.nan
    write(tmp_path, rows)
    assert len(open_split(tmp_path).features) == 5 * IMAGES


@given(
    hnp.arrays(np.float64, (2, 3), elements=st.floats(allow_nan=True, allow_infinity=True)),
    st.floats(-1e-4, 1e-4),
)
def test_rounding_is_told_from_another_value_at_any_scale(values, change):
    assert same_up_to_rounding(values, values)
    with np.errstate(over="ignore"):
        rounded = values * (1 + change)
    assert same_up_to_rounding(values, np.where(np.isinf(rounded), values, rounded))
    largest = np.abs(values[np.isfinite(values)]).max(initial=0.0)
    if largest > 1e-300:
        other = np.where(np.abs(values) == largest, values / 2, values)
        assert not same_up_to_rounding(values, other)


def test_padding_of_copies_is_not_compared(tmp_path, features):
    rows = np.repeat(features, 5, axis=0)
    rows[:, 2] = np.arange(20)[:, None]
    write(tmp_path, rows)
    assert len(open_split(tmp_path).features) == 20
    np.save(tmp_path / "test_lengths.npy", np.full(20, 2))
    assert len(open_split(tmp_path).features) == IMAGES
    np.save(tmp_path / "test_lengths.npy", np.full(IMAGES, 2))
    assert open_split(tmp_path).lengths.tolist() == [2] * IMAGES


@pytest.mark.parametrize("each", [1, 2, 3, 7])
@pytest.mark.parametrize("repeated", [False, True])
def test_any_constant_number_of_captions(tmp_path, features, each, repeated):
    rows = np.repeat(features, each, axis=0) if repeated else features
    write(tmp_path, rows, [f"c{number}" for number in range(each * IMAGES)])
    split = open_split(tmp_path)
    np.testing.assert_array_equal(split.features, features)
    assert split.image_of_caption.tolist() == np.repeat(range(IMAGES), each).tolist()


@pytest.mark.parametrize("repeated", [False, True])
@pytest.mark.parametrize("counts", [[4, 6, 5, 7], [4, 6, 5, 5], [1, 1, 1, 17], [5, 5, 5, 5]])
def test_ids_of_every_caption_say_whose_it_is(tmp_path, features, counts, repeated):
    """Even where the numbers alone would fit five captions each."""
    truth = np.repeat(range(IMAGES), counts)
    write(tmp_path, features[truth] if repeated else features, [f"c{number}" for number in range(sum(counts))])
    (tmp_path / "test_ids.txt").write_text("".join(f"{image}.jpg\n" for image in truth))
    split = open_split(tmp_path)
    np.testing.assert_array_equal(split.features, features)
    assert split.image_of_caption.tolist() == truth.tolist()
    assert split.ids == ["0.jpg", "1.jpg", "2.jpg", "3.jpg"]


@pytest.mark.parametrize(
    ("names", "says"),
    [
        ("aaaaabbbbbaaaaaddddd", "test_ids.txt, line 11 names 'a' again, after line 1"),
        ("aaaaabbbbbcccccccccc", "test_ids.txt names 3 images, the features hold 4"),
        ("abbbbcccccdddddeeeef", "test_ids.txt names 6 images, the features hold 4"),
        ("abcde", "test_ids.txt names 5 images, the features hold 4"),
    ],
)
def test_ids_that_do_not_fit_are_refused(tmp_path, features, names, says):
    write(tmp_path, features)
    (tmp_path / "test_ids.txt").write_text("\n".join(names))
    with pytest.raises(DataError, match=says):
        open_split(tmp_path)


def test_ids_that_contradict_the_features_are_refused(tmp_path, features):
    write(tmp_path, np.repeat(features, 5, axis=0))
    (tmp_path / "test_ids.txt").write_text("\n".join("aaaaaabbbbcccccddddd"))
    with pytest.raises(DataError, match="line 7 names 'b', but line 6 'a' for the same image"):
        open_split(tmp_path)


@pytest.mark.parametrize("repeats", [1, 5])
def test_numbered_captions_name_their_images(tmp_path, features, repeats):
    write(tmp_path, np.repeat(features, repeats, axis=0))
    (tmp_path / "test_ids.txt").write_text("".join(f"{n}.jpg#{k}\n" for n in range(IMAGES) for k in range(5)))
    assert open_split(tmp_path).ids == ["0.jpg", "1.jpg", "2.jpg", "3.jpg"]


@pytest.mark.parametrize("repeats", [1, 5])
def test_ids_of_captions_are_no_names_of_images(tmp_path, features, repeats):
    write(tmp_path, np.repeat(features, repeats, axis=0))
    (tmp_path / "test_ids.txt").write_text("".join(f"{n}\n" for n in range(20)))
    split = open_split(tmp_path)
    assert split.ids is None and split.layout.endswith(", ids of the captions, not of images")


def test_one_name_twice_among_many_is_compared(tmp_path):
    features = np.random.default_rng(0).standard_normal((400, 1, 4))
    write(tmp_path, features, ["a"] * 400)
    names = [str(n) for n in range(400)]
    names[203] = names[202]
    (tmp_path / "test_ids.txt").write_text("\n".join(names))
    assert len(open_split(tmp_path).features) == 400


def test_names_that_repeat_with_other_features_are_other_images(tmp_path):
    """Frames of one film, say: one caption each."""
    write(tmp_path, np.random.default_rng(1).standard_normal((20, REGIONS, DIMENSION)))
    (tmp_path / "test_ids.txt").write_text("film\n" * 20)
    assert len(open_split(tmp_path).features) == 20


@pytest.mark.parametrize(("there", "asked"), [("dev", "val"), ("val", "dev"), ("testall", "testall")])
def test_dev_and_val_are_one_split(tmp_path, features, there, asked):
    write(tmp_path, features, split=there)
    assert open_split(tmp_path, asked).split == there


def test_ids_are_one_per_image(tmp_path, features):
    write(tmp_path, np.repeat(features, 5, axis=0))
    (tmp_path / "test_ids.txt").write_text("a.jpg\nb.jpg\nc d.jpg\né.jpg\n", encoding="utf-8")
    assert open_split(tmp_path).ids == ["a.jpg", "b.jpg", "c d.jpg", "é.jpg"]


def test_the_requested_split_is_opened(tmp_path, features):
    write(tmp_path, features, split="test")
    write(tmp_path, features + 1, split="dev")
    np.testing.assert_array_equal(open_split(tmp_path, "dev").features, features + 1)
    assert open_split(tmp_path, "dev").vocabulary_path == tmp_path / "vocab.json"


def test_what_is_written_is_read(tmp_path, features):
    groups = [[f"caption {image} {number} – ü" for number in range(5)] for image in range(IMAGES)]
    ids = [f"{image}.jpg" for image in range(IMAGES)]
    write_split(tmp_path / "new", "train", features, groups, ids)
    split = open_split(tmp_path / "new", "train")
    np.testing.assert_array_equal(split.features, features)
    assert split.captions == [caption for group in groups for caption in group]
    assert split.ids == ids
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == [
        "train_caps.txt",
        "train_ids.txt",
        "train_ims.npy",
    ]


@pytest.mark.parametrize("groups", [[["a"] * 5] * 3, [["a"] * 5] * 3 + [["a"] * 4]])
def test_groups_of_captions_that_do_not_fit_are_not_written(tmp_path, features, groups):
    with pytest.raises(DataError, match="4 images need as many groups of 5 captions"):
        write_split(tmp_path, "train", features, groups)
    assert list(tmp_path.iterdir()) == []


def test_captions_are_split_at_line_feeds_alone(tmp_path):
    (tmp_path / "caps.txt").write_bytes("a\u2028b\r\n c\x0bd \n\u0085e\x1cf".encode())
    assert read_captions(tmp_path / "caps.txt") == ["a\u2028b", "c\x0bd", "e\x1cf"]


@pytest.mark.parametrize("dtype", [np.int64, np.int32, np.uint8])
def test_lengths_of_any_integer_type(tmp_path, dtype):
    np.save(tmp_path / "lengths.npy", np.array([3, 1, 2], dtype))
    assert open_lengths(tmp_path / "lengths.npy").tolist() == [3, 1, 2]


@pytest.mark.parametrize("content", [np.ones(3), np.ones((3, 1), int), np.array(3), np.array(["3"])])
def test_invalid_lengths_are_refused(tmp_path, content):
    np.save(tmp_path / "lengths.npy", content)
    with pytest.raises(DataError, match=r"lengths.npy holds .*; expected integers \(images,\), regions of each"):
        open_lengths(tmp_path / "lengths.npy")


def test_captions_of_a_stream_name_it(tmp_path):
    assert captions_of(b"a\nb", "standard input") == ["a", "b"]
    for content, says in ((b"", "is empty"), (b"a\n\nb", "line 2 is empty"), (b"a\n\xff", "line 2 is not UTF-8")):
        with pytest.raises(DataError, match=f"standard input.*{says}"):
            captions_of(content, "standard input")
