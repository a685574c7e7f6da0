"""A bundle that is replaced while a backend opens it."""

import json

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
