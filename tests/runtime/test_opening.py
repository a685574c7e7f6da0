"""What opening a bundle does besides: it bears that the bundle is replaced, and leaves nothing on the machine."""

import json
import os
import subprocess
import sys

import pytest

from caan.bundle import write_manifest
from caan.errors import BundleError
from caan.runtime.opening import open_precision


def replace(bundle):
    """Another process writes the bundle anew."""
    manifest = json.loads((bundle / "manifest.json").read_text())
    (bundle / "vocab.json").write_text((bundle / "vocab.json").read_text() + " ")
    write_manifest(bundle, manifest)


@pytest.mark.parametrize("fails", [True, False])
def test_what_was_read_of_the_old_one_is_read_again(tiny_bundle, fails):
    """Be it that its files no longer fit, or that they are of two models."""
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


def test_an_error_in_a_bundle_that_stays_is_raised(tiny_bundle):
    def make(bundle):
        raise BundleError("the files do not fit each other")

    with pytest.raises(BundleError, match="do not fit"):
        open_precision(tiny_bundle, "fp32", make)


def test_onnx_runtime_reports_nothing_of_its_use(tiny_folder, tmp_path):
    """Its wheels keep a database of events to send below the home folder."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("ORT_", "XDG_"))}
    code = "import sys; from caan.runtime import Retriever; Retriever.open(sys.argv[1], 'onnxruntime')"
    command = [sys.executable, "-c", code, str(tiny_folder / "model.caan")]
    subprocess.run(command, env={**environment, "HOME": str(tmp_path)}, check=True)
    assert list(tmp_path.iterdir()) == []
