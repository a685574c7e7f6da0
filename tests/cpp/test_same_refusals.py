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

from caan.bundle import write_manifest
from caan.errors import CaanError
from caan.runtime import Gallery, Retriever
from caan.runtime.index import Images, delete_items, index_items
from tests import test_bad_bundle, test_bad_gallery
from tests.cpp.conftest import BACKENDS, need_native

# Checks of the commands, not of the runtime.
COMMANDS_ALONE = {
    "test_no_bundle_here",
    "test_two_bundles_here_and_none_named",
    "test_an_append_to_a_damaged_gallery_does_not_hide_the_damage",
    "test_a_deletion_from_a_damaged_gallery",
}
# Messages that depend on the JSON parser or the programming language.
OWN_WORDS = re.compile(
    r"(?<=be read as JSON \().*(?=\); )|(?<=as an array \().*(?=\); )|(?<=valid description \().*(?=\); )"
    r"|(?<=UTF-8 \().*(?=\))",
    re.S,
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
    """outcomes(bundle, gallery=None, caption="w1", **options): what opening and searching gives in Python and in C++.

    Each is (0, None), or an error's exit code and message, what each says in its own words left out.
    """

    def in_python(bundle, gallery, caption, options):
        retriever = Retriever.open(bundle, **options)
        if gallery is not None:
            retriever.search(caption, Gallery.open(gallery), 3)

    def in_cpp(bundle, gallery, caption, options):
        retriever = caan_c.Retriever(library, str(bundle), **options)
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

    def both(bundle, gallery=None, caption="w1", **options):
        options = {"backend": "onnxruntime", "device": "cpu", **options}
        return [outcome(use, bundle, gallery, caption, options) for use in (in_python, in_cpp)]

    return both


@pytest.fixture
def refused(outcomes, tmp_path, monkeypatch):
    """As conftest's: opens what the command's arguments name."""
    monkeypatch.chdir(tmp_path)

    def check(command, first, *rest, says, code=2):
        opened = (first,) if command == "eval" else (rest[rest.index("--bundle") + 1], first)
        expected, actual = outcomes(*opened)
        assert expected[0] == code
        # A zero byte would end C's text.
        assert actual == (code, expected[1].replace("\0", " "))
        assert [text for text in says if text.replace("\0", " ") not in actual[1]] == []
        return actual[1]

    return check


def test_captions_that_can_not_be_searched(outcomes, tiny_folder, gallery):
    for caption in ("", " \t", "zebra", "Zebra quagga !", "猫", "caf\udce9 w1", "x" * 300, "\udcff" * 100):
        expected, actual = outcomes(tiny_folder / "model.caan", gallery, caption)
        assert expected[0] == 2 and actual == expected


@pytest.mark.parametrize("k", [0, 301])
def test_k_out_of_range(open_both, tiny_folder, caan_c, library, gallery, k):
    ours, theirs = open_both(tiny_folder / "model.caan")
    with pytest.raises(CaanError) as expected:
        ours.search("w1", Gallery.open(gallery), k)
    with pytest.raises(caan_c.CaanError) as actual:
        theirs.search_many(["w1"], caan_c.Gallery(library, str(gallery)), k)
    assert str(actual.value) == str(expected.value)


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
    "options",
    [
        {"precision": "int8"},
        {"backend": "x"},
        {"device": "tpu"},
        {"backend": "tensorrt", "device": "cpu"},
        {"precision": "bf16"},
        {"precision": "bf16", "backend": "tensorrt", "device": "cuda"},
        {"backend": "native", "precision": "int8"},
        {"backend": "native", "device": "cuda"},
        {"backend": "auto", "precision": "int8"},
        {"backend": "auto", "precision": "bf16", "device": "cuda"},
    ],
)
def test_unknown_options(caan_c, library, tiny_folder, options):
    given_options = {"backend": "onnxruntime", "device": "cpu", **options}
    with pytest.raises(CaanError) as expected:
        Retriever.open(tiny_folder / "model.caan", **given_options)
    with pytest.raises(caan_c.CaanError) as actual:
        caan_c.Retriever(library, str(tiny_folder / "model.caan"), **given_options)
    assert actual.value.code == expected.value.exit_code
    if options != {"backend": "x"}:  # C++ has no backend torch to name
        assert str(actual.value) == str(expected.value)


WEIGHTS = {
    "text": b"no numbers",
    "version": b"\x93NUMPY\x09\x00",
    "shape": np.ones((7, 2), np.float32),
    "double": np.ones((2, 7)),
    "big-endian": np.ones((2, 7), ">f4"),
    "nan": np.full((2, 7), np.nan, np.float32),
    "infinity": np.array([[1] * 7, [1] * 6 + [np.inf]], np.float32),
}


@pytest.mark.parametrize("name", [*WEIGHTS, "truncated", "removed"])
def test_weights_of_the_scorer(outcomes, tiny_folder, tmp_path, name):
    folder = shutil.copytree(tiny_folder / "model.caan", tmp_path / "model.caan")
    path = folder / "scorer_weights.npy"
    manifest = json.loads((folder / "manifest.json").read_text())
    if name == "removed":
        path.unlink()
        del manifest["files"][path.name]
    elif name == "truncated":
        path.write_bytes(path.read_bytes()[:-1])
    elif isinstance(WEIGHTS[name], bytes):
        path.write_bytes(WEIGHTS[name])
    else:
        np.save(path, WEIGHTS[name])
    write_manifest(folder, manifest)
    expected, actual = outcomes(folder, backend="native")
    assert expected[0] == 2 and actual == expected


@pytest.mark.parametrize("scale", [None, True, "4", float("nan"), float("inf"), []])
def test_an_invalid_attention_scale(outcomes, tiny_folder, tmp_path, scale):
    folder = shutil.copytree(tiny_folder / "model.caan", tmp_path / "model.caan")
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["config"]["attention_scale"] = scale
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=2))
    expected, actual = outcomes(folder, backend="native")
    assert expected[0] == 2 and actual == expected


def test_a_gallery_of_only_deleted_items(outcomes, open_both, tiny_folder, tmp_path):
    bundle = tiny_folder / "model.caan"
    retriever, _ = open_both(bundle)
    images = Images(retriever, np.ones((2, 5, 12), np.float32))
    index_items(retriever, bundle, images, tmp_path / "gallery", ["a", "b"])
    delete_items(tmp_path / "gallery", ["a", "b"])
    expected, actual = outcomes(bundle, tmp_path / "gallery")
    assert expected[0] == 2 and actual == expected


@pytest.fixture
def engines(caan_c, library, demo_precisions, tmp_path):
    """engines(precision, change): C++'s refusal, code and message, of a bundle whose manifest was changed."""

    def refusal(precision, change=lambda manifest: None):
        folder = tmp_path / "model.caan"
        shutil.copytree(demo_precisions, folder)
        manifest = json.loads((folder / "manifest.json").read_text())
        change(manifest)
        (folder / "manifest.json").write_text(json.dumps(manifest, indent=2))
        with pytest.raises(caan_c.CaanError) as actual:
            caan_c.Retriever(library, str(folder), backend="tensorrt", precision=precision, prebuilt_engines=1)
        return actual.value.code, str(actual.value).replace(str(folder), "BUNDLE")

    return refusal


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_an_engine_without_its_provider_is_refused(engines, precision):
    assert engines(precision) == (
        4,
        f"the engine tensorrt-rtx-{precision} of BUNDLE needs ONNX Runtime's NvTensorRTRTXExecutionProvider: this"
        " onnxruntime was built without it; see caan doctor, or use backend 'onnxruntime'",
    )


def rename(manifest):
    manifest["engines"]["tensorrt-rtx-fp16"]["onnx"]["scorer"] = "0" * 64


def drop_graph(manifest):
    del manifest["files"]["engines/tensorrt-rtx-fp16/scorer.epcontext.onnx"]


def begin_at_2(manifest):
    manifest["engines"]["tensorrt-rtx-fp16"]["profiles"]["scorer"][0]["shapes"]["text_states"]["min"][0] = 2


def damage(manifest):
    manifest["files"]["engines/tensorrt-rtx-fp16/scorer.epcontext.onnx"]["sha256"] = "0" * 64


REBUILD = "caan-build-engine BUNDLE --fp16 --target tensorrt-rtx"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (
            rename,
            f"the engine tensorrt-rtx-fp16 of BUNDLE is stale: it was built from another scorer; build it again:"
            f" {REBUILD}",
        ),
        (
            drop_graph,
            "the engine tensorrt-rtx-fp16 of BUNDLE has no graph for ONNX Runtime,"
            f" engines/tensorrt-rtx-fp16/scorer.epcontext.onnx; build it again, with its weights: {REBUILD}",
        ),
        (
            begin_at_2,
            "the engine tensorrt-rtx-fp16 of BUNDLE can't be used by ONNX Runtime: the first profile of its"
            f" scorer does not begin at 1; build it again without --profile: {REBUILD}",
        ),
        (
            damage,
            "BUNDLE/engines/tensorrt-rtx-fp16/scorer.epcontext.onnx was changed: its SHA-256 is not the"
            " manifest's; copy the bundle again, or export the checkpoint again",
        ),
        (
            lambda manifest: manifest.update(engines=[]),
            "BUNDLE/manifest.json has no valid 'engines'; build the engines again",
        ),
        (
            lambda manifest: manifest["engines"]["tensorrt-rtx-fp16"].update(profiles=5),
            "BUNDLE/manifest.json has no valid 'engines.tensorrt-rtx-fp16.profiles'; build the engine again",
        ),
    ],
)
def test_an_engine_that_can_not_be_used_is_refused(engines, change, says):
    assert engines("fp16", change) == (2, says)


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
    with pytest.raises(caan_c.CaanError) as actual:
        caan_c.Features(library, str(path))
    assert (actual.value.code, str(actual.value)) == (expected.value.exit_code, str(expected.value))


@pytest.mark.parametrize("backend", BACKENDS)
@settings(max_examples=150)
@given(data=st.data())
def test_a_mutated_manifest_is_treated_alike(outcomes, unavailable, tiny_folder, tmp_path, backend, data):
    if backend == "native":
        need_native(unavailable)
    folder = tmp_path / "mutated.caan"
    if not folder.exists():
        shutil.copytree(tiny_folder / "model.caan", folder)
    manifest = json.loads((tiny_folder / "model.caan" / "manifest.json").read_text())
    place = data.draw(st.sampled_from(list(test_bad_bundle.places(manifest))))
    manifest = test_bad_bundle.changed(manifest, place, data.draw(values))
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=2))
    expected, actual = outcomes(folder, backend=backend)
    assert actual == expected


# NaN and infinity are not JSON, but Python writes and reads them. Text inside a list or object is ASCII, since C++
# escapes the rest, and integers are at most the largest size in C++.
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**47), 2**47) | st.floats() | st.text("ab/'\n", max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("ab/", max_size=8), inner, max_size=3),
    max_leaves=5,
)
