"""Opening a bundle survives its replacement and leaves nothing on the machine."""

import json
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest

from caan.bundle import Bundle, write_manifest
from caan.errors import BundleError
from caan.runtime.backends.from_bundle import open_precision
from caan.runtime.backends.onnxruntime.sessions import check_rounding


def replace(bundle):
    """Another process replaces the bundle."""
    manifest = json.loads((bundle / "manifest.json").read_text())
    (bundle / "vocab.json").write_text((bundle / "vocab.json").read_text() + " ")
    write_manifest(bundle, manifest)


@pytest.mark.parametrize("fails", [True, False])
def test_a_bundle_replaced_while_opening_is_read_again(tiny_bundle, fails):
    """Whether its files no longer match, or belong to two models."""
    stamps = []

    def make(bundle):
        stamps.append(bundle.stamp)
        if len(stamps) == 1:
            replace(tiny_bundle)
            if fails:
                raise BundleError("the files do not fit each other")
        return bundle

    assert open_precision(tiny_bundle, "fp32", make).is_current()
    assert len(set(stamps)) == 2


def test_an_error_in_an_unchanged_bundle_is_raised(tiny_bundle):
    def make(bundle):
        raise BundleError("the files do not fit each other")

    with pytest.raises(BundleError, match="do not fit"):
        open_precision(tiny_bundle, "fp32", make)


def test_onnx_runtime_stores_no_telemetry(tiny_folder, tmp_path):
    """Some of its wheels keep a database of events in the home folder."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("ORT_", "XDG_"))}
    code = "import sys; from caan.runtime import Retriever; Retriever.open(sys.argv[1], 'onnxruntime')"
    command = [sys.executable, "-c", code, str(tiny_folder / "model.caan")]
    subprocess.run(command, env={**environment, "HOME": str(tmp_path)}, check=True)
    assert list(tmp_path.iterdir()) == []


# INT8 graphs from before their scales were float32


@pytest.mark.parametrize(
    ("version", "entry", "opens"),
    [
        ("1.20.1", {"checks": []}, False),
        ("1.28.0", {"checks": []}, False),
        ("1.29.0", {"checks": []}, False),
        ("1.28.0", [], False),
        ("1.30.0", {"checks": []}, True),
        ("2.0.0", {"checks": []}, True),
        ("1.20.1", {"checks": [], "scales": "float32"}, True),
    ],
)
def test_int8_graphs_that_this_onnxruntime_computes_wrong_are_refused(tmp_path, monkeypatch, version, entry, opens):
    monkeypatch.setattr(
        "caan.runtime.backends.onnxruntime.sessions.onnxruntime", lambda: SimpleNamespace(__version__=version)
    )
    bundle = Bundle(tmp_path / "m.caan", {"precisions": {"int8": entry, "fp16": {"checks": []}}}, ())
    check_rounding(bundle, "fp16")
    if opens:
        check_rounding(bundle, "int8")
        return
    with pytest.raises(
        BundleError, match=rf"ONNX Runtime {version} .* caan-build-engine .*m.caan --int8 --calibration-"
    ):
        check_rounding(bundle, "int8")
