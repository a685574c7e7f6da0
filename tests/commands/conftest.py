import pytest


@pytest.fixture(autouse=True)
def terminal_of_100_columns(monkeypatch):
    """What is printed depends on the terminal's width, which the tests' own runner may set."""
    monkeypatch.setenv("COLUMNS", "100")
