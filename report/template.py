"""Pages from templates, with all data escaped, including control characters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .._text import visible
from ..errors import needs

_MINUS = "\N{MINUS SIGN}"


def render(name: str, **values: Any) -> str:
    """Render a template of this folder. Raises MissingError without Jinja2."""
    with needs("plot", "an HTML page"):
        from jinja2 import Environment, FileSystemLoader, StrictUndefined
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_shown,
    )
    environment.filters.update(signed=_signed, change=_change, score=_score, count=_count)
    return environment.get_template(name).render(**values)


def check_installed(purpose: str, *, charts: bool = False) -> None:
    """Raise MissingError early if `render`, or with `charts` drawing, would; `purpose`: the option that needs it."""
    with needs("plot", purpose):
        import jinja2  # noqa: F401

        if charts:
            import matplotlib  # noqa: F401


def _shown(value: Any) -> Any:
    """An expression's output: data with control characters escaped, HTML markup unchanged."""
    is_data = isinstance(value, str) and not hasattr(value, "__html__")
    return visible(value, keep="\n") if is_data else value


def _signed(value: float) -> str:
    """Formatted as +0.50 or −1.70; 0.00 has no sign."""
    text = f"{value:+.2f}"
    return "0.00" if float(text) == 0 else text.replace("-", _MINUS)


def _change(value: float) -> str:
    """A score difference, as +0.0123, or as +8.3e-07 if small."""
    text = f"{value:+.4f}" if abs(value) >= 5e-4 else f"{value:+.1e}"
    return "0" if value == 0 else text.replace("-", _MINUS)


def _score(value: float) -> str:
    return f"{value:.4f}".replace("-", _MINUS)


def _count(value: float) -> str:
    return f"{value:,.0f}"
