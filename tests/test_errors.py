"""What installs an extra: never a name that anybody could take in an index."""

import json
from importlib import metadata

import pytest

from caan import errors
from caan.errors import install


class Installed:
    def __init__(self, content):
        self._content = content

    def read_text(self, name):
        assert name == "direct_url.json"
        return self._content


@pytest.mark.parametrize(
    ("url", "command"),
    [
        ("file:///home/me/caan", "pip install '/home/me/caan[cpu]'"),
        ("file:///tmp/My%20wheels/caan_deploy-0.1.0.whl", "pip install '/tmp/My wheels/caan_deploy-0.1.0.whl[cpu]'"),
        ("https://example.org/caan.whl", "pip install 'caan-deploy[cpu] @ https://example.org/caan.whl'"),
    ],
)
def test_it_is_installed_from_where_caan_came_from(monkeypatch, url, command):
    monkeypatch.setattr(metadata, "distribution", lambda name: Installed(json.dumps({"url": url})))
    assert install("cpu") == command


@pytest.mark.parametrize("content", [None, "", "{}", "no JSON"])
def test_where_nobody_knows_it_is_a_checkout(monkeypatch, tmp_path, content):
    monkeypatch.setattr(metadata, "distribution", lambda name: Installed(content))
    monkeypatch.setattr(errors, "__file__", str(tmp_path / "errors.py"))
    assert install("cpu") == "in a checkout of caan: pip install '.[cpu]'"


def test_a_checkout_that_is_not_installed_names_itself(monkeypatch, tmp_path):
    def absent(name):
        raise metadata.PackageNotFoundError(name)

    (tmp_path / "pyproject.toml").touch()
    monkeypatch.setattr(metadata, "distribution", absent)
    monkeypatch.setattr(errors, "__file__", str(tmp_path / "errors.py"))
    assert install("gpu") == f"pip install '{tmp_path.resolve()}[gpu]'"
