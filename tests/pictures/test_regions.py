"""Users' boxes and pictures, and the shading of pictures."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from caan.errors import DataError
from caan.pictures import regions
from caan.pictures.regions import grid_boxes, read_boxes, read_picture, shade_regions


@pytest.fixture
def saved(tmp_path):
    """saved(array): save an .npy file and return its path."""

    def save(array):
        np.save(tmp_path / "boxes.npy", array)
        return tmp_path / "boxes.npy"

    return save


def grey(width=40, height=20):
    return Image.new("RGB", (width, height), (200, 200, 200))


def test_a_grid_s_cells_are_row_by_row():
    assert grid_boxes(2, 3)[1].tolist() == pytest.approx([1 / 3, 0, 2 / 3, 0.5])
    assert grid_boxes(2, 3)[3].tolist() == pytest.approx([0, 0.5, 1 / 3, 1])


@given(st.integers(1, 20), st.integers(1, 20))
def test_a_grid_covers_the_picture_once(rows, columns):
    boxes = grid_boxes(rows, columns)
    assert boxes.shape == (rows * columns, 4) and boxes.dtype == np.float32
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    assert areas.sum() == pytest.approx(1, abs=1e-5) and areas.min() > 0


def test_good_boxes_are_read_and_clipped(saved):
    boxes = np.tile(np.array([0, 0.1, 0.5, 1.0004], np.float64), (3, 2, 1))
    result = read_boxes(saved(boxes), 3, 2)
    assert result.shape == (3, 2, 4) and result.dtype == np.float32 and result.max() == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda b: b[:2], r"holds \(2, 2, 4\); the features need boxes \(3, 2, 4\)"),
        (lambda b: b[:, :1], r"holds \(3, 1, 4\)"),
        (lambda b: b[..., :3], r"holds \(3, 2, 3\)"),
        (lambda b: b * np.nan, "NaN or infinity"),
        (lambda b: b * 480, r"holds 0 to 240; .*divide pixels by the picture's width and height"),
        (lambda b: b - 0.2, "divide"),
        (lambda b: b[..., [2, 3, 0, 1]], "region 0 of image 0 has no area"),
        (lambda b: b * 0, "no area"),
        (lambda b: b.astype(str), "holds"),
    ],
)
def test_boxes_that_can_t_be_used(saved, change, message):
    boxes = np.tile(np.array([0, 0.1, 0.5, 0.5]), (3, 2, 1))
    with pytest.raises(DataError, match=message):
        read_boxes(saved(change(boxes)), 3, 2)


SIZES = np.array([[40.0, 20.0], [20.0, 40.0]])  # width, height
PIXELS = np.array([[[0, 0, 20, 20], [10, 5, 40, 10]], [[0, 0, 10, 40], [5, 5, 20, 20]]], np.float32)
FRACTIONS = np.array([[[0, 0, 0.5, 1], [0.25, 0.25, 1, 0.5]], [[0, 0, 0.5, 1], [0.25, 0.125, 1, 0.5]]])


@pytest.mark.parametrize(
    "sizes",
    [SIZES, SIZES.astype(int), np.array([{"image_h": int(h), "image_w": int(w)} for w, h in SIZES], object)],
)
@pytest.mark.parametrize("repeats", [1, 5])
def test_boxes_in_pixels_with_the_pictures_sizes_beside_them(tmp_path, sizes, repeats):
    """GSMN's files."""
    np.save(tmp_path / "test_ims_bbx.npy", np.repeat(PIXELS, repeats, axis=0))
    np.save(tmp_path / "test_ims_size.npy", np.repeat(sizes, repeats, axis=0))
    boxes = read_boxes(tmp_path / "test_ims_bbx.npy", 2, 2, rows=slice(None, None, repeats))
    np.testing.assert_allclose(boxes, FRACTIONS)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        (SIZES[:, ::-1], "look at test_ims_size.npy, which holds each picture's width, then its height"),
        (SIZES * 0, "width and a height above 0 for each of 2 images"),
        (SIZES[:1], "for each of 2 images"),
        (np.array(["a", "b"]), "for each of 2 images"),
        (np.array([{"w": 1}, {"w": 2}], object), "other objects than dicts of image_w and image_h"),
        (np.array([print, print], object), "holds .*print, not only plain data; nothing of it was executed"),
    ],
)
def test_sizes_that_can_t_be_used(tmp_path, sizes, message):
    np.save(tmp_path / "test_ims_bbx.npy", PIXELS)
    np.save(tmp_path / "test_ims_size.npy", sizes)
    with pytest.raises(DataError, match=message):
        read_boxes(tmp_path / "test_ims_bbx.npy", 2, 2)


def test_boxes_of_padding_are_not_looked_at(saved):
    boxes = np.tile(np.array([0, 0.1, 0.5, 1]), (2, 3, 1))
    boxes[0, 1:], boxes[1, 2:] = 0, np.nan
    read = read_boxes(saved(boxes), 2, 3, np.array([1, 2]))
    assert not read[0, 1:].any() and not read[1, 2:].any() and read[0, 0, 3] == 1


def test_a_file_that_holds_no_boxes(tmp_path):
    (tmp_path / "boxes.npy").write_text("x0 y0 x1 y1")
    with pytest.raises(DataError, match=r"is not an \.npy file; save"):
        read_boxes(tmp_path / "boxes.npy", 1, 1)
    with pytest.raises(DataError, match=r"can't read .*No such file"):
        read_boxes(tmp_path / "nowhere.npy", 1, 1)


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "P", "CMYK"])
def test_pictures_of_any_mode_become_rgb(tmp_path, mode):
    path = tmp_path / ("picture.jpg" if mode == "CMYK" else "picture.png")
    Image.new(mode, (30, 20)).save(path)
    result = read_picture(path)
    assert (result.mode, result.size) == ("RGB", (30, 20))


def test_a_large_picture_is_made_smaller(tmp_path):
    Image.new("RGB", (4100, 410)).save(tmp_path / "wide.png")
    assert read_picture(tmp_path / "wide.png").size == (2048, 205)


def test_a_picture_is_turned_as_its_camera_says(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation: turn by 90 degrees
    Image.new("RGB", (30, 20)).save(tmp_path / "turned.jpg", exif=exif)
    assert read_picture(tmp_path / "turned.jpg").size == (20, 30)


@pytest.mark.parametrize("content", [b"", b"no picture", b"\x89PNG\r\n\x1a\n" + bytes(100)])
def test_what_is_no_picture(tmp_path, content):
    (tmp_path / "picture.png").write_bytes(content)
    with pytest.raises(DataError, match=r"picture\.png can't be read as a picture .*save it as PNG or JPEG"):
        read_picture(tmp_path / "picture.png")


def test_a_truncated_picture(tmp_path):
    Image.effect_noise((80, 80), 50).save(tmp_path / "whole.png")
    (tmp_path / "half.png").write_bytes((tmp_path / "whole.png").read_bytes()[:3000])
    with pytest.raises(DataError, match=r"half\.png can't be read"):
        read_picture(tmp_path / "half.png")


def test_no_picture_and_a_folder(tmp_path):
    with pytest.raises(DataError, match="no picture at"):
        read_picture(tmp_path / "nowhere.png")
    with pytest.raises(DataError, match="can't be read as a picture"):
        read_picture(tmp_path)


def test_a_picture_of_too_many_pixels_is_refused_before_it_is_decoded(tmp_path, monkeypatch):
    monkeypatch.setattr(regions, "MAX_PIXELS", 100)
    grey().save(tmp_path / "huge.png")
    monkeypatch.setattr(Image.Image, "convert", lambda *_: pytest.fail("decoded"))
    with pytest.raises(DataError, match="40 × 20 pixels, too many; make it smaller"):
        read_picture(tmp_path / "huge.png")


def test_shading_dims_what_has_no_weight_and_keeps_what_has_most():
    shaded = np.asarray(shade_regions(grey(), grid_boxes(1, 4), np.array([0, 0.1, 0.2, 0.4])))
    middles = shaded[10, [5, 15, 25, 35]][:, 0]
    assert middles[3] == 200 and middles[0] < 60
    assert (np.diff(middles.astype(int)) > 0).all()


def test_where_boxes_overlap_the_largest_weight_counts():
    boxes = np.array([[0, 0, 1, 1], [0.4, 0.2, 0.6, 0.8]])
    inside, around = (np.asarray(shade_regions(grey(), boxes, w))[10, 20] for w in ([0.1, 1], [1, 0.1]))
    assert inside.tolist() == around.tolist() == [200, 200, 200]


def test_the_strongest_region_is_outlined():
    plain = np.asarray(grey())
    shaded = np.asarray(shade_regions(grey(), grid_boxes(1, 2), [0.2, 0.8]))
    yellow = (shaded[..., 0] > 200) & (shaded[..., 2] < 100)
    rows, columns = np.nonzero(yellow)
    assert (columns.min(), columns.max(), rows.min(), rows.max()) == (20, 39, 0, 19)
    assert (np.asarray(grey()) == plain).all()


@given(st.integers(1, 8), st.integers(0, 2**32 - 1))
def test_shading_depends_on_neither_scale_nor_order(count, seed):
    generator = np.random.default_rng(seed)
    corners = np.sort(generator.random((count, 2, 2)), axis=1)
    boxes, weights = corners.reshape(count, 4), generator.permutation(count) + 1.0
    order = generator.permutation(count)
    one = np.asarray(shade_regions(grey(), boxes, weights))
    assert (one == np.asarray(shade_regions(grey(), boxes[order], weights[order] * 4))).all()


def test_weights_that_are_all_zero_leave_a_dim_picture():
    assert np.asarray(shade_regions(grey(), grid_boxes(1, 1), [0.0])).max(axis=2)[10, 20] < 60
