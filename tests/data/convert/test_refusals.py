"""What `caan data convert` does not take: named in a line, with the way out; nothing is written, nothing executed."""

import gzip
import json
import pickle
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from caan.data.convert import writing
from caan.data.convert.captions import read_captioned
from caan.data.convert.sources import open_source
from caan.errors import DataError
from tests.data.convert.conftest import NAMES, karpathy, lmdb_folder, npz_folder, tarred, tsv


@pytest.fixture
def convert_refused(refused, tmp_path):
    """convert_refused(source, says=…): `caan data convert` refuses it."""
    return lambda *arguments, says, code=2: refused(
        "data", "convert", *arguments, "-o", tmp_path / "data", says=says, code=code
    )


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("features.pth", b"PK\x03\x04", ["a file of PyTorch", "torch.load(…, weights_only=True)", "numpy.savez"]),
        ("features.pkl", pickle.dumps({}), ["a pickle, which could run code", "numpy.savez"]),
        ("features", pickle.dumps({}), ["a pickle, which could run code"]),
        ("features.mat", b"MATLAB 5.0 MAT-file", ["a file of MATLAB", "scipy.io.loadmat"]),
        ("features.parquet", b"PAR1", ["a table of Arrow", "pandas"]),
        ("features.tfrecord", b"\0" * 40, ["a file of TensorFlow", "TFRecordDataset"]),
        ("features.tsv.gz", gzip.compress(b"1\t2", mtime=0), ["compressed", "unpack it"]),
        ("features.npy.zst", b"\x28\xb5\x2f\xfd", ["compressed", "unpack it"]),
        ("features.zip", b"PK\x03\x04", ["an archive", "unpack it"]),
        ("captions.json", b"{}", ["text, not features", "--captions FILE"]),
        ("photo.jpg", b"\xff\xd8\xff\xe0", ["a picture", "detector"]),
        ("features.npz", b"PK\x03\x04", ["one .npz file", "name the folder"]),
        ("features.xyz", b"what is it", ["of no form that is read", ".tsv", "HDF5", "LMDB", "numpy.savez"]),
        (
            "train.tsv",
            b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
            ["pointer of Git LFS", "git lfs pull"],
        ),
        (
            "features.tsv",
            b"1\tx.jpg\n",
            ["line 1 has 2 columns; expected 6", "image_id image_w image_h", "numpy.savez"],
        ),
        ("features.tsv", b"", ["holds no image"]),
        ("features.tsv", b"7\t1\t1\tmany\tAAAA\tAAAA\n", ["line 1 has 'many' as its number of regions"]),
        ("features.h5", b"no HDF5", ["can't be read as HDF5", "copy it again"]),
        ("features.npy", b"\x93NUMPY", ["features.npy is a damaged or truncated .npy file; copy it again"]),
    ],
)
def test_forms_that_are_not_read_are_named_with_the_way_to_convert_them(convert_refused, tmp_path, name, content, says):
    if name.endswith(".h5"):
        pytest.importorskip("h5py", reason="reads HDF5: pip install '.[data]'")
    (tmp_path / name).write_bytes(content)
    message = convert_refused(tmp_path / name, says=[name, *says])
    assert ("copy it again" in message) == (name in ("features.h5", "features.npy"))


def test_an_archive_of_features(convert_refused, world, tmp_path):
    archive = tarred(npz_folder(world, tmp_path / "npz"), tmp_path / "npz.tar")
    convert_refused(archive, says=["an archive", "unpack it"])


def test_a_folder_of_other_files_is_told_by_them(convert_refused, tmp_path):
    (tmp_path / "there").mkdir()
    convert_refused(tmp_path / "there", says=["holds no .npz or .npy files"])
    (tmp_path / "there" / "7.pth").write_bytes(b"PK")
    convert_refused(tmp_path / "there", says=["7.pth is a file of PyTorch"])
    convert_refused(tmp_path / "nowhere", says=["no features at"])


def test_a_truncated_tsv_is_told_by_its_last_line(convert_refused, world, tmp_path):
    path = tsv(world, tmp_path / "a.tsv")
    whole = path.read_bytes()
    path.write_bytes(whole[:-40])
    convert_refused(path, says=["a.tsv, line 4", "copy the file again"])
    path.write_bytes(whole[: whole.rindex(b"\t") - 3])
    convert_refused(path, says=["a.tsv, line 4 has 5 columns of 6; the line is cut off: copy the file again"])


@pytest.mark.parametrize("damage", [b"", b"PK\x03\x04", None])
def test_a_damaged_npz_is_named(convert_refused, world, tmp_path, damage):
    folder = npz_folder(world, tmp_path / "npz")
    path = folder / "7.jpg.npz"
    path.write_bytes(path.read_bytes()[:-200] if damage is None else damage)
    convert_refused(folder, says=["7.jpg.npz can't be read as .npz", "copy it again"])


def test_an_npz_of_objects_is_not_unpickled(convert_refused, tmp_path):
    (tmp_path / "npz").mkdir()
    np.savez(tmp_path / "npz" / "a.npz", x=np.array([{}], object))
    convert_refused(tmp_path / "npz", says=["a.npz holds Python objects, which could run code"])


def test_features_that_do_not_fit_together(convert_refused, world, tmp_path):
    folder = npz_folder(world, tmp_path / "npz")
    np.savez(folder / "8.npz", x=np.ones((2, 5)), bbox=np.ones((2, 4)), image_w=2, image_h=2)
    convert_refused(folder, says=["image '8' has features (2, 5), expected (2, 6)", "same detector"])
    np.savez(folder / "8.npz", x=np.ones((2, 6)))
    convert_refused(folder, says=["image '8' has no boxes", "other images have some"])
    np.savez(folder / "8.npz", x=np.full((2, 6), np.nan), bbox=np.ones((2, 4)), image_w=2, image_h=2)
    convert_refused(folder, says=["image '8' has features that are NaN or infinite"])
    np.savez(folder / "8.npz", x=np.full((2, 6), 1e6), bbox=np.ones((2, 4)), image_w=2, image_h=2)
    convert_refused(folder, "--dtype", "float16", says=["image '8' has features beyond float16"])
    np.savez(folder / "8.npz", x=np.ones((2, 6)), bbox=np.ones((3, 4)), image_w=2, image_h=2, num_bbox=3)
    convert_refused(folder, says=["8.npz says 3 regions and holds 2"])
    np.savez(folder / "8.npz", y=np.ones((2, 6)))
    convert_refused(folder, says=["8.npz has no features: it holds y"])


def test_hdf5_that_points_into_other_files_is_refused(convert_refused, tmp_path):
    h5py = pytest.importorskip("h5py", reason="reads HDF5: pip install '.[data]'")
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["features"] = np.ones((1, 2, 3))
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["features"] = h5py.ExternalLink("other.h5", "/features")
    convert_refused(tmp_path / "a.h5", says=["'features' points elsewhere"])
    with h5py.File(tmp_path / "b.h5", "w") as file:
        file.create_dataset("features", (1, 2, 3), "f4", external=[(str(tmp_path / "other.h5"), 0, 24)])
    convert_refused(tmp_path / "b.h5", says=["'features' points elsewhere"])


def test_hdf5_without_names_or_of_another_layout(convert_refused, tmp_path):
    h5py = pytest.importorskip("h5py", reason="reads HDF5: pip install '.[data]'")
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["features"] = np.ones((2, 2, 3))
    convert_refused(tmp_path / "a.h5", says=["doesn't name its images", "--names FILE"])
    (tmp_path / "names.txt").write_text("one\n")
    convert_refused(tmp_path / "a.h5", "--names", "names.txt", says=["2 images and 1 names"])
    with h5py.File(tmp_path / "b.h5", "w") as file:
        file["weights"] = np.ones(3)
    convert_refused(tmp_path / "b.h5", says=["holds weights; expected features (images, regions, F)"])


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("num_boxes", [1], "num_boxes is (1,), the features need 2 of them"),
        ("boxes", np.ones((1, 2, 4)), "boxes is (1, 2, 4), the features need 2"),
        ("image_w", [1.0, np.nan], "image_w is"),
        ("num_boxes", [3, 1], "says 3 regions and holds 2"),
        ("pos_boxes", [[0, 2], [2, 4]], "features is (2, 2, 3)"),
    ],
)
def test_hdf5_whose_arrays_do_not_fit_together(convert_refused, tmp_path, name, value, says):
    h5py = pytest.importorskip("h5py", reason="reads HDF5: pip install '.[data]'")
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["features"], file["ids"] = np.ones((2, 2, 3)), [b"1", b"2"]
        file[name] = value[:1] if name == "image_w" else value
    convert_refused(tmp_path / "a.h5", says=[says])


def test_truncated_databases(convert_refused, world, tmp_path):
    pytest.importorskip("lmdb", reason="reads LMDB: pip install '.[data]'")
    folder = lmdb_folder(world, tmp_path / "a.lmdb")
    (folder / "lock.mdb").unlink()
    content = (folder / "data.mdb").read_bytes()
    (folder / "data.mdb").write_bytes(content[: len(content) // 2])
    convert_refused(folder, says=["a.lmdb is truncated", "copy it again"])
    (folder / "data.mdb").write_bytes(b"")
    convert_refused(folder, says=["a.lmdb can't be read as LMDB"])


@pytest.mark.parametrize("field", ["num_bbox", "image_w"])
@pytest.mark.parametrize("value", ["many", np.nan, []])
def test_numbers_that_are_none(convert_refused, world, tmp_path, field, value):
    (tmp_path / "npz").mkdir()
    fields = {"x": np.ones((2, 3)), "bbox": np.ones((2, 4)), "num_bbox": 2, "image_w": 1, "image_h": 1}
    np.savez(tmp_path / "npz" / "a.npz", **{**fields, field: value})
    convert_refused(tmp_path / "npz", says=["a.npz"])


@given(content=st.binary(max_size=80))
@pytest.mark.parametrize("name", ["a.tsv", "a.h5", "a.npy", "there/a.npz", "lmdb/data.mdb", "a"])
def test_any_bytes_are_a_data_error_that_names_the_file(tmp_path, name, content):
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    source = path.parent if "/" in name else path
    with pytest.raises(DataError, match=re.escape(str(source))):
        open_source([source], None, progress=False)


@given(content=st.binary(max_size=80) | st.text('{}[]"\t,:\nab#1', max_size=40).map(str.encode))
def test_any_bytes_are_captions_or_a_data_error_that_names_the_file(tmp_path, content):
    (tmp_path / "c").write_bytes(content)
    try:
        read_captioned(tmp_path / "c")
    except DataError as error:
        assert str(tmp_path / "c") in str(error)


@pytest.mark.parametrize("name", ["a\nb", " ", "\udcff"])
def test_names_that_no_line_of_text_can_hold(convert_refused, world, tmp_path, name):
    (tmp_path / "npy").mkdir()
    np.save(tmp_path / "npy" / f"{name}.npy", np.ones((2, 3)))
    convert_refused(tmp_path / "npy", says=["names an image", "of one line of text"])
    if name != "\udcff":
        (tmp_path / "c.json").write_text(json.dumps({name: "a"}))
        convert_refused(tsv(world, tmp_path / "a.tsv"), "--captions", "c.json", says=["a name is one line of text"])


class Attack:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (self.path, "w")


def test_a_hostile_lmdb_runs_nothing(convert_refused, world, tmp_path):
    pytest.importorskip("lmdb", reason="reads LMDB: pip install '.[data]'")
    lmdb_folder(world, tmp_path / "a.lmdb", lambda n: pickle.dumps({"features": Attack(str(tmp_path / "made"))}))
    (tmp_path / "a.lmdb" / "lock.mdb").unlink()
    convert_refused(tmp_path / "a.lmdb", says=["nothing of it was executed"])
    lmdb_folder(world, tmp_path / "b.lmdb", lambda n: b"\x04\x22\x4d\x18lz4")
    convert_refused(tmp_path / "b.lmdb", says=["holds neither a pickle nor an .npz file", "numpy.savez"])


@pytest.mark.parametrize("package", ["h5py", "lmdb"])
def test_a_missing_package_is_named_with_its_extra(convert_refused, world, tmp_path, monkeypatch, package):
    if package == "h5py":
        (tmp_path / "a").write_bytes(b"\x89HDF\r\n\x1a\n")
    else:
        (tmp_path / "a").mkdir()
        (tmp_path / "a" / "data.mdb").write_bytes(b"")
    monkeypatch.setitem(__import__("sys").modules, package, None)
    convert_refused(tmp_path / "a", code=4, says=[package, "[data]"])


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("c.json", "{", ["c.json is not JSON"]),
        ("c.json", "{}", ["c.json holds no captions"]),
        ("c.json", '{"a": 1}', ["JSON of another form", "Karpathy's"]),
        ("c.json", '{"images": [{"filename": "7"}]}', ["image 0 has no 'filename' or no 'sentences'"]),
        ("c.json", '{"images": [{"filename": "7", "sentences": []}]}', ["image '7' has no captions"]),
        ("c.json", '{"images": [{"filename": "7", "sentences": [{"raw": " "}]}]}', ["image 0: caption 0 is empty"]),
        ("c.json", '{"images": [{"id": 1}], "annotations": [{"image_id": 1}]}', ["lacks 'caption'"]),
        ("c.jsonl", '{"id": "7", "captions": ["a"]}\n{"id": ', ["line 2 is not JSON"]),
        ("c.jsonl", '{"id": "7", "captions": ["a"]}\n{"id": "8"}', ["line 2 has 'id'; expected an image"]),
        ("c.jsonl", '{"id": "7", "captions": ["a"]}\n[1]', ["line 2 is not an object"]),
        ("c.txt", "a\nb\nc\n", ["3 captions for 4 images", "--ids FILE"]),
        ("c.txt", "", ["c.txt is empty"]),
        ("c.token", "7.jpg#0\t \n", ["line 1: caption 0 is empty"]),
    ],
)
def test_captions_that_are_not_captions_name_the_line(convert_refused, world, tmp_path, name, content, says):
    (tmp_path / name).write_text(content)
    convert_refused(tsv(world, tmp_path / "a.tsv"), "--captions", name, says=says)


def test_a_split_that_the_captions_lack(convert_refused, world, tmp_path):
    karpathy(tmp_path / "d.json")
    source = tsv(world, tmp_path / "a.tsv")
    convert_refused(
        source, "--captions", "d.json", "--split", "testall", says=["the splits train, dev, test, not testall"]
    )


def test_several_sources_that_are_not_tsv(convert_refused, world, tmp_path):
    convert_refused(tsv(world, tmp_path / "a.tsv"), npz_folder(world, tmp_path / "npz"), says=["only .tsv files"])


def test_a_full_disk_publishes_nothing(convert_refused, world, tmp_path, small_disk):
    big = type(world)(world.names, [np.ones((2, 4000), np.float32)] * 4, [np.ones((2, 4), np.float32)] * 4)
    (tmp_path / "npz").mkdir()
    for name, features in zip(NAMES, big.features, strict=True):
        np.savez(tmp_path / "npz" / f"{name}.npz", x=features)
    from caan.data.convert.convert import ConvertOptions, convert
    from caan.errors import OutputError

    with pytest.raises(
        OutputError, match=r"is full, test_ims\.npy was not written; free some space and rerun the same"
    ):
        convert([tmp_path / "npz"], small_disk / "data", ConvertOptions())
    assert not list((small_disk / "data").glob("*.npy"))


def test_the_command_says_what_it_wrote_and_how_to_resume(run, world, tmp_path, monkeypatch):
    captions = tmp_path / "c.jsonl"
    captions.write_text("\n".join(json.dumps({"id": n, "captions": ["a", "b"]}) for n in NAMES))
    command = ["data", "convert", tsv(world, tmp_path / "a.tsv"), "-o", tmp_path / "data", "--captions", captions]
    with monkeypatch.context() as patch:
        patch.setattr(writing, "write_lines", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        assert "interrupted; rerun the same command to resume" in run(*command).err
    done = run(*command)
    assert done.code == 0 and done.out == f"{tmp_path}/data: test, 4 images of 1 to 4 regions, 8 captions\n"
