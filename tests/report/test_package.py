"""The templates are part of the package that is installed."""

import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_every_template_is_package_data():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    assert "caan.report" in settings["packages"]
    named = {path for pattern in settings["package-data"]["caan.report"] for path in (ROOT / "report").glob(pattern)}
    others = {path for path in (ROOT / "report").iterdir() if path.is_file() and path.suffix != ".py"}
    assert others and others == named
