"""The choice of `auto` with the compiled scorer's package, without it, and if it does not load."""

import sys
import types
import warnings

import pytest

from caan.errors import CaanWarning, InputError, MissingError
from caan.runtime import Retriever
from caan.runtime.backends import native as native_backend
from caan.runtime.doctor import diagnose


@pytest.fixture
def absent(monkeypatch):
    monkeypatch.setitem(sys.modules, "caan_native", None)


@pytest.fixture
def broken(monkeypatch, tmp_path):
    """A package compiled for another Python, as after an upgrade."""
    (tmp_path / "caan_native").mkdir()
    (tmp_path / "caan_native" / "__init__.py").write_text("from ._native import Scorer\n")
    for name in [name for name in sys.modules if name.partition(".")[0] == "caan_native"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [f for f in sys.meta_path if not _is_editable(f)])
    monkeypatch.syspath_prepend(tmp_path)


def _is_editable(finder):
    return "caan_native" in str(getattr(finder, "known_source_files", ""))


@pytest.fixture
def installed(monkeypatch):
    """A stub of the package, enough for opening."""

    class Scorer:
        instruction_set = "none"

        def __init__(self, *arguments):
            self.arguments = arguments

    module = types.ModuleType("caan_native")
    module.Scorer, module.has_native_bfloat16 = Scorer, lambda: True
    monkeypatch.setitem(sys.modules, "caan_native", module)


def opened(path, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return Retriever.open(path, **options).backend


def test_with_the_package_it_is_native(installed, tiny_folder):
    for device in ("auto", "cpu"):
        assert opened(tiny_folder / "model.caan", device=device).name == "native"


def test_the_scorer_gets_the_models_sizes_scale_weights_and_threads(installed, tiny_folder):
    *sizes, w_v, w_u, precision, threads = opened(tiny_folder / "model.caan", threads=3)._scorer.arguments
    assert (sizes, precision, threads) == ([10, 7, 4.0], "fp32", 3)
    assert w_v.shape == w_u.shape == (7,) and (w_v != w_u).any()


def test_without_the_package_it_is_onnxruntime_without_a_warning(absent, tiny_folder):
    assert opened(tiny_folder / "model.caan").name == "onnxruntime"


def test_a_package_that_does_not_load_is_a_warning(broken, tiny_folder):
    with pytest.warns(CaanWarning, match=r"does not load .*make native.*until then onnxruntime is used") as result:
        assert Retriever.open(tiny_folder / "model.caan").backend.name == "onnxruntime"
    assert result[0].filename == __file__
    with pytest.raises(MissingError, match="is installed but does not load"):
        Retriever.open(tiny_folder / "model.caan", "native")


def test_what_is_missing_says_how_to_get_it(absent, tiny_folder):
    for options in ({"backend": "native"}, {"precision": "bf16"}):
        with pytest.raises(MissingError, match=r"needs the package 'caan_native'; build it: make native, or pip"):
            Retriever.open(tiny_folder / "model.caan", **options)


def test_onnxruntime_on_a_gpu_goes_first(installed, tiny_folder, monkeypatch):
    """Tested without a GPU: the compiled scorer is not tried if sessions would run on one."""
    calls = []
    monkeypatch.setattr("caan.runtime.backends.onnxruntime.sessions.choose_device", lambda device: "cuda")
    monkeypatch.setattr(native_backend, "open_native_if_installed", lambda *arguments: calls.append(arguments))
    assert opened(tiny_folder / "model.caan").name == "onnxruntime"
    assert calls == []


@pytest.mark.parametrize("backend", ["onnxruntime", "tensorrt", "torch"])
def test_other_backends_have_no_bfloat16(backend, tiny_folder):
    with pytest.raises(InputError, match=f"'{backend}' has no precision 'bf16'; use 'native' on a CPU"):
        Retriever.open(tiny_folder / "model.caan", backend, "bf16")


def check():
    return next(check for check in diagnose().checks if check.name.startswith("backend native"))


def test_the_doctor_says_what_is_gained_and_how(absent):
    result = check()
    assert not result.ok and "several times as fast" in result.detail and "make native" in result.advice


def test_the_doctor_says_that_a_package_does_not_load(broken):
    result = check()
    assert not result.ok and "does not load" in result.detail and "make native" in result.advice


@pytest.mark.parametrize(("has", "says"), [(True, "fp16 and bf16"), (False, "this CPU has no bf16 instructions")])
def test_the_doctor_says_which_precisions_there_are(installed, monkeypatch, has, says):
    monkeypatch.setattr(sys.modules["caan_native"], "has_native_bfloat16", lambda: has)
    assert check().ok and says in check().detail
