"""matplotlib's SVG for embedding in a page: the style sheet's colours and fonts, no scripts, ids or own styles.

Charts are drawn in placeholder colours, which become the style sheet's variables, so that they follow its light and
dark schemes.
"""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

import numpy as np
from markupsafe import Markup

from ..errors import needs

with needs("plot", "a report's charts"):
    from matplotlib import rc_context
    from matplotlib.figure import Figure
    from matplotlib.patches import PathPatch
    from matplotlib.path import Path

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WIDTH = 360  # units, to fit a phone; one unit is a matplotlib point
LEFT, RIGHT = 52, WIDTH - 12  # of a plot with a y axis
INK, SOFT, LINE = "#500010", "#500011", "#500012"
_SERIES = 8
_NAMES = {INK: "ink", SOFT: "soft", LINE: "line", **{f"#50000{number}": f"s{number}" for number in range(_SERIES)}}
DOTS = 0.45  # opacity of a sample's dot; a placeholder for the style sheet's
_PLACES = ("d", "x", "y", "transform")


def colour(series: int) -> str:
    """The placeholder for a row's colour."""
    return f"#50000{series % _SERIES}"


def canvas(height: float, left: float, right: float, top: float, bottom: float) -> tuple[Figure, Axes]:
    """A figure of WIDTH × height, without pyplot, and frameless axes.

    The axes span (left, top) to (right, bottom), measured from the upper left corner."""
    figure = Figure(figsize=(WIDTH / 72, height / 72), dpi=72)
    box = (left / WIDTH, 1 - bottom / height, (right - left) / WIDTH, (bottom - top) / height)
    axes = figure.add_axes(box)
    axes.set_axis_off()
    return figure, axes


def below(axes: Axes, place: float, units: float, text: str, align: str = "center", size: float = 11.5) -> None:
    """Text `units` below the axes, at the fraction `place` of their width."""
    write(axes, text, (place, 0), (0, -units), ha=align, size=size)


def write(axes: Axes, text: str, place: tuple[float, float], units: tuple[float, float], **look: Any) -> None:
    """Text at an offset in units from a place in the axes."""
    look = {"color": SOFT, "va": "baseline", "size": 11.5, "parse_math": False, "usetex": False, **look}
    axes.annotate(text, place, units, xycoords="axes fraction", textcoords="offset points", **look)


def number(value: float) -> str:
    """Three significant digits; all digits from 1,000 on."""
    text = f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return text.replace("-", "\N{MINUS SIGN}")


def draw(axes: Axes, points: Sequence[tuple[float, float]], codes: list[Any], **look: Any) -> None:
    """One path of many parts with the same codes."""
    if points:
        path = Path(np.array(points, np.float64), codes * (len(points) // len(codes)))
        axes.add_patch(PathPatch(path, capstyle="round", clip_on=False, fill="facecolor" in look, **look))


def markup(figure: Figure, title: str, description: str) -> Markup:
    """The figure as an HTML element, deterministic; a screen reader reads title and description."""
    stream = io.BytesIO()
    with rc_context({"svg.fonttype": "none"}):
        # Keep text as text.
        figure.savefig(stream, format="svg", transparent=True)
    drawn = ElementTree.fromstring(stream.getvalue())
    page = ElementTree.Element("svg", viewBox=drawn.attrib["viewBox"], role="img")
    for tag, text in (("title", title), ("desc", description)):
        ElementTree.SubElement(page, tag).text = text
    # Only shapes and text: the metadata holds a date, and a <style> would apply to the whole page.
    for element in drawn.iter():
        tag = element.tag.rpartition("}")[2]
        if tag in ("path", "text") and element.get("style") != "fill: none":
            ElementTree.SubElement(page, tag, _attributes(element.attrib)).text = element.text
    return Markup(ElementTree.tostring(page, encoding="unicode"))


def _attributes(attributes: dict[str, str]) -> dict[str, str]:
    """Position and colour attributes, in the style sheet's colours and with one decimal."""
    places: dict[str, str] = {name: _rounded(attributes[name]) for name in _PLACES if name in attributes}
    if places.get("transform", "").startswith("rotate(-0 "):
        del places["transform"]
    styles = [style for style in attributes.get("style", "").split("; ") if not style.startswith("font-family")]
    style = "; ".join(re.sub(r"font: ([\d.]+px).*", r"font-size: \1", each) for each in styles)
    for drawn, name in _NAMES.items():
        style = style.replace(drawn, f"var(--{name})")
    return {**places, "style": style.replace(f"stroke-opacity: {DOTS}", "stroke-opacity: var(--dots)")}


def _rounded(places: str) -> str:
    short = re.sub(r"-?\d+\.\d+", lambda match: f"{float(match[0]):.1f}".removesuffix(".0"), places)
    return " ".join(short.split())
