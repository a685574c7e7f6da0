"""A manifest that is replaced again and again: the bundle opens in between or is refused; nobody reads for ever."""

import threading

import pytest

from caan._files import read_consistently, stamps
from caan.bundle import open_bundle
from caan.errors import BundleError, DataError


def touch(path):
    """Another writing of the same content."""
    copy = path.with_name("copy")
    copy.write_bytes(path.read_bytes())
    copy.replace(path)


def test_files_that_never_stay_are_given_up(tmp_path, monkeypatch):
    monkeypatch.setattr(stamps, "_LONGEST_PAUSE", 0)
    published, reads = tmp_path / "manifest.json", []
    published.write_text("{}")

    def read():
        reads.append(touch(published))

    with pytest.raises(BundleError, match=r"manifest\.json was replaced each of \d+ times .*; try again when that is"):
        read_consistently(published, read)
    assert 10 <= len(reads) <= 1_000


def test_what_is_wrong_with_files_that_never_stay_is_given_up_too(tmp_path, monkeypatch):
    monkeypatch.setattr(stamps, "_LONGEST_PAUSE", 0)
    published = tmp_path / "manifest.json"
    published.write_text("{}")

    def read():
        touch(published)
        raise DataError("of two writings")

    with pytest.raises(BundleError, match="try again"):
        read_consistently(published, read)


def test_a_bundle_is_opened_or_refused_though_its_manifest_changes(tiny_bundle):
    over = threading.Event()

    def change():
        while not over.wait(0.02):
            touch(tiny_bundle / "manifest.json")

    changer = threading.Thread(target=change)
    changer.start()
    try:
        assert open_bundle(tiny_bundle).precisions == ["fp32"]
    except BundleError as error:
        assert "try again" in str(error)
    finally:
        over.set()
        changer.join()
