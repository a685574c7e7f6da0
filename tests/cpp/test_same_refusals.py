"""Bad bundles, galleries and input are refused by C++ with Python's message and exit code.

The damaged bundles and galleries are those of tests/test_bad_bundle.py and tests/test_bad_gallery.py: their tests run
again here, on a fixture `refused` that opens what a command would, in both.
"""

import inspect
import json
import re
import shutil

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from caan.errors import CaanError
from caan.runtime import Gallery, Retriever
from tests import test_bad_bundle, test_bad_gallery

# What only the commands do, not the runtime.
COMMANDS_ALONE = {
    "test_no_bundle_here",
    "test_two_bundles_here_and_none_named",
    "test_an_append_to_a_damaged_gallery_does_not_hide_the_damage",
    "test_a_deletion_from_a_damaged_gallery",
}
# What another JSON parser, or another programming language, says in its own words.
OWN_WORDS = re.compile(
    r"(?<=be read as JSON \().*(?=\); )|(?<=valid description \().*(?=\); )|(?<=UTF-8 \().*(?=\))", re.S
)


def _borrow(module):
    for name, value in vars(module).items():
        is_test = name.startswith("test_")
        uses_refused = is_test and {"refused", "evaluated", "rewritten", "searched"} & set(
            inspect.signature(value).parameters
        )
        if not name.startswith("__") and name not in COMMANDS_ALONE and (uses_refused or not is_test):
            globals().setdefault(name, value)


_borrow(test_bad_bundle)
_borrow(test_bad_gallery)


@pytest.fixture(scope="module")
def retriever(tiny_folder) -> Retriever:
    return Retriever.open(tiny_folder / "model.caan")


@pytest.fixture(scope="session")
def outcomes(caan_c, library):
    """outcomes(bundle, gallery=None, caption="w1"): what opening and searching gives in Python and in C++.

    Each is (0, None), or an error's exit code and message, what each says in its own words left out.
    """

    def in_python(bundle, gallery, caption):
        retriever = Retriever.open(bundle, "onnxruntime", device="cpu")
        if gallery is not None:
            retriever.search(caption, Gallery.open(gallery), 3)

    def in_cpp(bundle, gallery, caption):
        retriever = caan_c.Retriever(library, str(bundle), device="cpu")
        if gallery is not None:
            retriever.search_many([caption], caan_c.Gallery(library, str(gallery)), 3)

    def outcome(use, *arguments):
        try:
            use(*arguments)
        except CaanError as error:
            return error.exit_code, OWN_WORDS.sub("…", str(error))
        except caan_c.CaanError as error:
            return error.code, OWN_WORDS.sub("…", str(error))
        return 0, None

    def both(bundle, gallery=None, caption="w1"):
        return [outcome(use, bundle, gallery, caption) for use in (in_python, in_cpp)]

    return both


@pytest.fixture
def refused(outcomes, tmp_path, monkeypatch):
    """As conftest's: the command's arguments say what is opened."""
    monkeypatch.chdir(tmp_path)

    def check(command, first, *rest, says, code=2):
        opened = (first,) if command == "eval" else (rest[rest.index("--bundle") + 1], first)
        expected, found = outcomes(*opened)
        assert expected[0] == code
        # A zero byte would end C's text.
        assert found == (code, expected[1].replace("\0", " "))
        assert [text for text in says if text.replace("\0", " ") not in found[1]] == []
        return found[1]

    return check


def test_captions_that_can_not_be_searched(outcomes, tiny_folder, gallery):
    for caption in ("", " \t", "zebra", "Zebra quagga !", "猫", "caf\udce9 w1", "x" * 300, "\udcff" * 100):
        expected, found = outcomes(tiny_folder / "model.caan", gallery, caption)
        assert expected[0] == 2 and found == expected


@pytest.mark.parametrize("k", [0, 301])
def test_k_out_of_range(open_both, tiny_folder, caan_c, library, gallery, k):
    ours, theirs = open_both(tiny_folder / "model.caan")
    with pytest.raises(CaanError) as expected:
        ours.search("w1", Gallery.open(gallery), k)
    with pytest.raises(caan_c.CaanError) as found:
        theirs.search_many(["w1"], caan_c.Gallery(library, str(gallery)), k)
    assert str(found.value) == str(expected.value)


@pytest.mark.parametrize("shape", [(2, 5, 11), (2, 0, 12), (2, 900, 12), (0, 5, 12)])
def test_features_that_can_not_be_encoded(open_both, tiny_folder, caan_c, shape):
    ours, theirs = open_both(tiny_folder / "model.caan")
    refusals = []
    for retriever in (ours, theirs):
        with pytest.raises((CaanError, caan_c.CaanError)) as refusal:
            retriever.encode_images(np.ones(shape, np.float32))
        refusals.append(str(refusal.value))
    assert refusals[0] == refusals[1]


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_features_that_are_not_finite(open_both, tiny_folder, caan_c, value):
    ours, theirs = open_both(tiny_folder / "model.caan")
    features = np.ones((40, 5, 12), np.float32)
    features[33, 2, 7] = value
    refusals = []
    for retriever in (ours, theirs):
        with pytest.raises((CaanError, caan_c.CaanError), match="image 33 can't be encoded") as refusal:
            retriever.encode_images(features)
        refusals.append(str(refusal.value))
    assert refusals[0] == refusals[1]


@pytest.mark.parametrize(
    "options", [{"precision": "int8"}, {"backend": "x"}, {"device": "tpu"}, {"backend": "tensorrt", "device": "cpu"}]
)
def test_options_that_are_not_there(caan_c, library, tiny_folder, options):
    given_options = {"backend": "onnxruntime", "device": "cpu", **options}
    with pytest.raises(CaanError) as expected:
        Retriever.open(tiny_folder / "model.caan", **given_options)
    with pytest.raises(caan_c.CaanError) as found:
        caan_c.Retriever(library, str(tiny_folder / "model.caan"), **given_options)
    assert found.value.code == expected.value.exit_code
    if options != {"backend": "x"}:  # C++ has no backend torch to name
        assert str(found.value) == str(expected.value)


files = {
    "object": np.array([{}]),
    "integers": np.ones((2, 5, 12), np.int64),
    "flat": np.ones((5, 12), np.float32),
    "empty": np.ones((0, 5, 12), np.float32),
}


@pytest.mark.parametrize("name", [*files, "truncated", "text", "missing", "archive"])
def test_files_of_features(caan_c, library, tmp_path, name):
    from caan.data.scan import open_features

    path = tmp_path / "x.npy"
    if name in files:
        np.save(path, files[name], allow_pickle=True)
    elif name == "archive":
        np.savez(tmp_path / "x.npz", a=np.ones(3))
        shutil.move(tmp_path / "x.npz", path)
    elif name != "missing":
        np.save(path, np.ones((2, 5, 12), np.float32))
        content = path.read_bytes()
        path.write_bytes(content[:-1] if name == "truncated" else b"no numbers")
    with pytest.raises(CaanError) as expected:
        open_features(path)
    with pytest.raises(caan_c.CaanError) as found:
        caan_c.Features(library, str(path))
    assert (found.value.code, str(found.value)) == (expected.value.exit_code, str(expected.value))


@settings(max_examples=150)
@given(data=st.data())
def test_a_mutated_manifest_is_treated_alike(outcomes, tiny_folder, tmp_path, data):
    folder = tmp_path / "mutated.caan"
    if not folder.exists():
        shutil.copytree(tiny_folder / "model.caan", folder)
    manifest = json.loads((tiny_folder / "model.caan" / "manifest.json").read_text())
    place = data.draw(st.sampled_from(list(test_bad_bundle.places(manifest))))
    manifest = test_bad_bundle.changed(manifest, place, data.draw(values))
    (folder / "manifest.json").write_text(json.dumps(manifest))
    expected, found = outcomes(folder)
    assert found == expected


# No NaN and infinity, which are no JSON, though Python reads them. What is printed inside a list or object is ASCII, as
# C++ escapes all else, and an object has one key, as C++ sorts them.
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-10, 10)
    | st.floats(-1e6, 1e6).map(lambda x: round(x, 3))
    | st.text("ab/'\n", max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("ab/", max_size=8), inner, max_size=1),
    max_leaves=5,
)
