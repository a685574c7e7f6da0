"""matplotlib's SVG made part of a page: the style sheet's colours and fonts, no script, identifier or foreign style.

Charts are drawn in colours that stand for the style sheet's names, so that they follow its light and its dark scheme.
"""

from __future__ import annotations

import io
import re
from typing import TYPE_CHECKING
from xml.etree import ElementTree

from markupsafe import Markup

from ..errors import needs

with needs("plot", "a report's charts"):
    from matplotlib import rc_context
    from matplotlib.figure import Figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WIDTH = 360  # units, to suit a phone; one is a point of matplotlib's
INK, SOFT, LINE = "#500010", "#500011", "#500012"
_SERIES = 8
_NAMES = {INK: "ink", SOFT: "soft", LINE: "line", **{f"#50000{number}": f"s{number}" for number in range(_SERIES)}}
DOTS = 0.45  # how opaque a sample's dot is; the style sheet says it anew
_PLACES = ("d", "x", "y", "transform")


def colour(series: int) -> str:
    """What stands for a row's colour."""
    return f"#50000{series % _SERIES}"


def canvas(height: float, left: float, right: float, top: float, bottom: float) -> tuple[Figure, Axes]:
    """A figure of WIDTH × height, nothing of which is pyplot's, and axes without frame from (left, top) to
    (right, bottom), counted from the upper left corner.
    """
    figure = Figure(figsize=(WIDTH / 72, height / 72), dpi=72)
    box = (left / WIDTH, 1 - bottom / height, (right - left) / WIDTH, (bottom - top) / height)
    axes = figure.add_axes(box)
    axes.set_axis_off()
    return figure, axes


def markup(figure: Figure, title: str, description: str) -> Markup:
    """The figure as an element of HTML, the same for the same figure; a screen reader says title and description."""
    stream = io.BytesIO()
    with rc_context({"svg.fonttype": "none"}):
        # Text stays text.
        figure.savefig(stream, format="svg", transparent=True)
    drawn = ElementTree.fromstring(stream.getvalue())
    page = ElementTree.Element("svg", viewBox=drawn.attrib["viewBox"], role="img")
    for tag, text in (("title", title), ("desc", description)):
        ElementTree.SubElement(page, tag).text = text
    # Only what is drawn: metadata name a date, and a style in the definitions would be the whole page's.
    for element in drawn.iter():
        tag = element.tag.rpartition("}")[2]
        if tag in ("path", "text") and element.get("style") != "fill: none":
            ElementTree.SubElement(page, tag, _attributes(element.attrib)).text = element.text
    return Markup(ElementTree.tostring(page, encoding="unicode"))


def _attributes(given: dict[str, str]) -> dict[str, str]:
    """Those that place and colour an element, in the style sheet's colours and one digit after the point."""
    places: dict[str, str] = {name: _rounded(given[name]) for name in _PLACES if name in given}
    if places.get("transform", "").startswith("rotate(-0 "):
        del places["transform"]
    styles = [style for style in given.get("style", "").split("; ") if not style.startswith("font-family")]
    style = "; ".join(re.sub(r"font: ([\d.]+px).*", r"font-size: \1", each) for each in styles)
    for drawn, name in _NAMES.items():
        style = style.replace(drawn, f"var(--{name})")
    return {**places, "style": style.replace(f"stroke-opacity: {DOTS}", "stroke-opacity: var(--dots)")}


def _rounded(places: str) -> str:
    short = re.sub(r"-?\d+\.\d+", lambda found: f"{float(found[0]):.1f}".removesuffix(".0"), places)
    return " ".join(short.split())
