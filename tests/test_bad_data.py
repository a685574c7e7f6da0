"""Unusable features, captions and ids: the messages of `caan eval`, `caan index` and the Python interface."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from caan.data.scan import open_features, open_split, read_captions
from caan.errors import CaanWarning, DataError
from caan.runtime import Retriever

REGIONS, DIMENSION = 5, 12


@pytest.fixture
def evaluated(refused, tiny_folder, tiny_data):
    """evaluated(says=…): `caan eval` of the tiny bundle on `tiny_data` is refused."""
    return lambda says: refused("eval", tiny_folder / "model.caan", "--data", tiny_data, says=says)


@pytest.fixture
def indexed(refused, tiny_folder, tmp_path):
    """indexed(features, says=…): `caan index` of these features with the tiny bundle is refused."""

    def check(features, *options, says):
        np.save(tmp_path / "features.npy", features)
        command = ["index", tiny_folder / "model.caan", "features.npy", "-o", "gallery", *options]
        return refused(*command, says=says)

    return check


@pytest.fixture(scope="module")
def retriever(tiny_folder):
    return Retriever.open(tiny_folder / "model.caan")


def ones(images=3, regions=REGIONS, dimension=DIMENSION):
    return np.ones((images, regions, dimension), np.float32)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e300])
def test_features_that_are_not_finite_name_the_image(indexed, value):
    features = ones().astype(np.float64)
    features[1, 2, 3] = value
    indexed(features, says=["image 1 can't be encoded", "NaN, infinity or huge", "extract them again"])


def test_features_that_are_not_finite_name_the_images_id(indexed, tmp_path):
    features = ones()
    features[2, 0, 0] = np.nan
    (tmp_path / "ids.txt").write_text("cat.jpg\ndog.jpg\nowl.jpg\n")
    indexed(features, "--ids", "ids.txt", says=["image 2 (owl.jpg) can't be encoded"])


def test_nan_beyond_an_images_regions_is_allowed(retriever):
    features = ones()
    features[1, 3:] = np.nan
    assert len(retriever.encode_images(features, lengths=[5, 3, 5])) == 3


def test_evaluating_features_that_are_not_finite_names_the_image(evaluated, tiny_data):
    features = np.load(tiny_data / "test_ims.npy")
    features[4, 0, 7] = np.inf
    np.save(tiny_data / "test_ims.npy", features)
    evaluated(says=["image 4 can't be encoded"])


def test_features_of_another_dimension(indexed):
    indexed(ones(dimension=13), says=["features have dimension 13", "trained on 12"])


def test_images_without_regions(indexed, retriever):
    indexed(ones(regions=0), says=["features.npy is empty", "(3, 0, 12)"])
    with pytest.raises(DataError, match="0 regions per image, the model takes 1 to 512"):
        retriever.encode_images(ones(regions=0))


def test_more_regions_than_the_graph_takes(indexed, retriever):
    indexed(ones(images=1, regions=513), says=["513 regions per image", "1 to 512"])
    assert len(retriever.encode_images(ones(images=1, regions=512))) == 1


def test_no_image(indexed, retriever):
    indexed(ones(images=0), says=["features.npy is empty", "(0, 5, 12)"])
    with pytest.raises(DataError, match="there is no image"):
        retriever.encode_images(ones(images=0))


@pytest.mark.parametrize(
    "features", [np.ones((3, 12)), np.ones((3, 5, 12), int), np.ones((3, 5, 12), complex), np.array(["a"]), np.ones(())]
)
def test_an_array_that_does_not_hold_features(indexed, retriever, features):
    indexed(features, says=["features.npy", "expected floats (images, regions, features)"])
    with pytest.raises(DataError, match="features must be a float array"):
        retriever.encode_images(features)


def test_features_that_are_a_list(retriever):
    with pytest.raises(DataError, match="features must be a float array"):
        retriever.encode_images([[[1.0]]])


def test_features_holding_objects_are_not_unpickled(indexed):
    indexed(np.array([object()]), says=["features.npy holds Python objects, which could run code"])


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"no features", "features.npy is not an .npy file; save its array with numpy.save, or convert it: caan data"),
        (b"\x89HDF\r\n\x1a\n", "features.npy is not an .npy file"),
        (b"PK\x03\x04", "features.npy holds several arrays (.npz)"),
        (b"", "features.npy is a damaged or truncated .npy file; copy it again"),
        (b"\x93NUMPY", "features.npy is a damaged or truncated .npy file"),
        (b"\x93NUMPY\x01\x00\xff\xff{", "features.npy is a damaged or truncated .npy file"),
    ],
)
def test_a_file_that_does_not_hold_features(refused, tiny_folder, tmp_path, content, says):
    (tmp_path / "features.npy").write_bytes(content)
    command = ["index", tiny_folder / "model.caan", "features.npy", "-o", "gallery"]
    refused(*command, says=[says])


def test_truncated_features(evaluated, tiny_data):
    path = tiny_data / "test_ims.npy"
    path.write_bytes(path.read_bytes()[:-1])
    evaluated(says=["test_ims.npy", "truncated"])


def test_features_in_an_archive(refused, tiny_folder, tmp_path):
    np.savez(tmp_path / "features.npz", a=ones())
    command = ["index", tiny_folder / "model.caan", "features.npz", "-o", "gallery"]
    refused(*command, says=["features.npz holds several arrays", "numpy.save"])


@pytest.mark.parametrize("name", ["missing.npy", "."])
def test_features_that_are_not_a_file(refused, tiny_folder, name):
    refused("index", tiny_folder / "model.caan", name, "-o", "gallery", says=[f"can't read {name}"])


@settings(max_examples=150)
@given(position=st.integers(0, 127), byte=st.integers(0, 255))
def test_a_damaged_header_is_a_data_error_or_still_an_array(tmp_path, position, byte):
    np.save(tmp_path / "features.npy", ones())
    content = bytearray((tmp_path / "features.npy").read_bytes())
    content[position] = byte
    (tmp_path / "features.npy").write_bytes(content)
    try:
        assert open_features(tmp_path / "features.npy").ndim == 3
    except DataError as error:
        assert "features.npy" in str(error)


@pytest.mark.parametrize(
    ("lengths", "says"),
    [
        ([1, 2], "lengths must be 3 integers"),
        ([1.0, 2.0, 3.0], "lengths must be 3 integers"),
        ([0, 1, 2], "lengths must be 1 to 5"),
        ([1, 2, 6], "not 1 to 6"),
    ],
)
def test_lengths_that_do_not_fit(retriever, lengths, says):
    with pytest.raises(DataError, match=says):
        retriever.encode_images(ones(), lengths=lengths)


def test_an_ids_file_with_another_number_of_names(indexed, tmp_path):
    (tmp_path / "ids.txt").write_text("cat\ndog\n")
    indexed(ones(), "--ids", "ids.txt", says=["2 ids don't fit 3 items", "one name per item"])


def test_a_data_sets_ids_file_with_another_number_of_names(evaluated, tiny_data):
    (tiny_data / "test_ids.txt").write_text("cat\ndog\n")
    evaluated(says=["test_ids.txt names 2 images, the features hold 6"])


@pytest.mark.parametrize("lines", [29, 31, 1])
def test_features_and_captions_that_do_not_fit_together(evaluated, tiny_data, lines):
    (tiny_data / "test_caps.txt").write_text("w1 w2\n" * lines)
    evaluated(says=["test_ims.npy has 6 rows", f"test_caps.txt {lines} lines", "expected 5 captions per image"])


def test_a_captions_file_that_is_empty(evaluated, tiny_data):
    (tiny_data / "test_caps.txt").write_text("")
    evaluated(says=["test_caps.txt is empty", "one caption a line"])


@pytest.mark.parametrize("line", ["", "  \t", "\r", "\u3000"])
def test_an_empty_line_is_named(evaluated, tiny_data, line):
    captions = ["w1"] * 30
    captions[6] = line
    (tiny_data / "test_caps.txt").write_text("\n".join(captions), newline="")
    evaluated(says=["test_caps.txt, line 7 is empty", "every line must hold one caption"])


def test_a_line_that_is_not_utf8_is_named(evaluated, tiny_data):
    lines = [b"w1"] * 30
    lines[11] = "café".encode("latin-1")
    (tiny_data / "test_caps.txt").write_bytes(b"\n".join(lines))
    evaluated(says=["test_caps.txt, line 12 is not UTF-8", "iconv"])


@given(content=st.binary(max_size=60))
def test_any_bytes_are_captions_or_a_data_error_naming_the_file(tmp_path, content):
    (tmp_path / "caps.txt").write_bytes(content)
    try:
        captions = read_captions(tmp_path / "caps.txt")
    except DataError as error:
        assert "caps.txt" in str(error)
    else:
        assert captions and all(caption.strip() for caption in captions)


@pytest.mark.parametrize("name", ["test_ims.npy", "test_caps.txt"])
def test_a_data_set_with_a_file_missing(evaluated, tiny_data, name):
    (tiny_data / name).unlink()
    evaluated(says=[f"{name} is missing", "splits in this folder", "--split"])


def test_a_missing_split(refused, tiny_folder, tiny_data):
    command = ["eval", tiny_folder / "model.caan", "--data", tiny_data, "--split", "dev"]
    refused(*command, says=["dev_ims.npy is missing", "splits in this folder: test"])


@pytest.mark.parametrize("name", ["nowhere", "data/test_ims.npy"])
def test_a_data_set_that_is_not_a_folder(refused, tiny_folder, tiny_data, name):
    command = ["eval", tiny_folder / "model.caan", "--data", name]
    refused(*command, says=[f"no data set at {name}", "test_ims.npy and test_caps.txt"])


def test_an_export_with_a_bad_data_set_stops_before_it_writes(refused, tiny_folder, tiny_data):
    (tiny_data / "test_caps.txt").write_text("w1\n")
    refused("export", tiny_folder / "model.pt", "--data", tiny_data, says=["don't fit together"])


def test_five_folds_of_a_data_set_that_does_not_divide(refused, tiny_folder, tiny_data):
    command = ["eval", tiny_folder / "model.caan", "--data", tiny_data, "--folds"]
    assert "5 folds" in refused(*command, says=["6 images × 30 captions"])


def test_a_caption_of_unknown_words_among_many_is_a_warning(retriever):
    with pytest.warns(CaanWarning, match="caption 1 is without any word of the vocabulary"):
        gallery = retriever.encode_captions(["w1 w2", "zebra quagga", "w3 zebra"])
    assert len(gallery) == 3


def test_several_unknown_captions_are_one_warning(retriever):
    with pytest.warns(CaanWarning, match=r"5 captions \(0, 1, 2, …\) are without any word") as warned:
        retriever.score_matrix(retriever.encode_images(ones()), ["zebra"] * 5)
    assert len(warned) == 1


def test_a_data_set_with_an_unknown_caption_is_evaluated_with_a_warning(run, tiny_folder, tiny_data):
    (tiny_data / "test_caps.txt").write_text("zebra\n" + "w1 w2\n" * 29)
    done = run("eval", tiny_folder / "model.caan", "--data", tiny_data)
    assert done.code == 0 and "rsum" in done.out
    assert "Warning: caption 0 is without any word of the vocabulary; the scores mean little\n" in done.err


def test_a_caption_of_ten_thousand_words_is_cut_with_a_warning(retriever):
    with pytest.warns(CaanWarning, match="caption 1 is longer than 126 words; further words were dropped"):
        gallery = retriever.encode_captions(["w1", "w1 " * 10_000, "w1 " * 126])
    assert gallery.lengths.tolist() == [3, 128, 128]


def test_an_empty_caption_among_many_is_named(retriever):
    with pytest.raises(DataError, match="caption 2: the caption is empty"):
        retriever.encode_captions(["w1", "w2", " "])
    with pytest.raises(DataError, match="caption 1: the caption is empty"):
        retriever.encode_captions([["w1"], []])


@pytest.mark.parametrize("captions", [[], ()])
def test_no_caption(retriever, captions):
    with pytest.raises(DataError, match="there is no caption"):
        retriever.encode_captions(captions)


def test_one_string_in_place_of_a_list_of_captions(retriever):
    with pytest.raises(ValueError, match=r"write \[caption\]"):
        retriever.encode_captions("w1 w2")


def test_a_good_data_set_passes(tiny_data, run, tiny_folder):
    """The undamaged input of the tests above is accepted."""
    assert len(open_split(tiny_data).features) == 6
    assert run("eval", tiny_folder / "model.caan", "--data", tiny_data).code == 0
