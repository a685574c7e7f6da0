import pytest


@pytest.fixture(autouse=True)
def terminal_of_100_columns(monkeypatch):
    """Output depends on the terminal's width, which the test runner may set."""
    monkeypatch.setenv("COLUMNS", "100")
