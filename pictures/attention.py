"""Drawing an explanation: what CAAN attended to in a picture, and which words attended to which regions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ..errors import needs
from ..runtime import Explanation
from .regions import pixel_boxes, shade_regions

with needs("plot", "drawing an explanation"):
    from matplotlib import colormaps
    from matplotlib.figure import Figure
    from matplotlib.textpath import TextPath
    from PIL import Image

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# More rows or columns would be too small to read; words and regions with the highest attention are shown.
MAX_WORDS, MAX_REGIONS = 40, 50
_CLOSE_UPS = 4
# In inches, from the upper left corner.
_WIDTH, _MARGIN, _DPI = 9.0, 0.25, 120
_PICTURE = 3.9
_HEADER, _LINE = 0.55, 0.29  # the header without the caption; one line of it
_WORD_SIZE = 12.0  # points
_WORD_LETTERS = 14
_SHADE = "YlOrRd"


def draw_explanation(
    explanation: Explanation, picture: Image.Image | None = None, boxes: NDArray[np.floating] | None = None
) -> Figure:
    """Draw the caption shaded by au, the picture by av, the alignment Hv of words and regions, and its top regions.

    boxes (R, 4) fractions. Without boxes the picture is not shaded; without a picture boxes are drawn on grey. Does not
    use pyplot. Importing this module raises MissingError without matplotlib or Pillow.
    """
    if picture is None and boxes is not None:
        picture = Image.new("RGB", (400, 400), (190, 190, 190))
    lines = _word_lines(explanation.words)
    words, regions = _strongest(explanation)
    close_ups = [] if boxes is None else _close_ups(explanation)
    top = _HEADER + _LINE * len(lines)
    middle = max(0.21 * len(words) + 1.25, 0.0 if picture is None else _fitted(picture, _PICTURE)[1] + 0.45)
    side = (_WIDTH - 2 * _MARGIN - 0.15 * (_CLOSE_UPS - 1)) / _CLOSE_UPS
    bottom = 0.0 if picture is None or not close_ups else _fitted(picture, side)[1] + 0.5
    notes = _notes(explanation, words, regions, picture is not None and boxes is None)
    height = top + middle + bottom + (0.35 if notes else 0.1)
    figure = Figure(figsize=(_WIDTH, height), dpi=_DPI, facecolor="white")
    _draw_caption(figure, explanation, lines)
    left = _MARGIN
    if picture is not None:
        _draw_picture(figure, explanation, picture, boxes, top)
        left += _PICTURE + 0.15
    _draw_alignment(figure, explanation, words, regions, (left + 1.2, top, _WIDTH - 0.85, top + middle - 0.5))
    if picture is not None and boxes is not None:
        _draw_close_ups(figure, explanation, picture, boxes, close_ups, top + middle, side)
    if notes:
        figure.text(_MARGIN / _WIDTH, 0.1 / height, notes, fontsize=8, color="0.35")
    return figure


def _draw_caption(figure: Figure, explanation: Explanation, lines: Sequence[Sequence[tuple[int, float]]]) -> None:
    """The caption as a title, each word's background shaded by its weight in the score."""
    height = _HEADER + _LINE * len(lines)
    axes = _axes(figure, 0, 0, _WIDTH, height)
    axes.set(xlim=(0, _WIDTH), ylim=(height, 0))  # in inches
    axes.axis("off")
    shares = explanation.au / max(float(explanation.au.max()), 1e-12)
    for number, line in enumerate(lines):
        for word, x in line:
            background = colormaps[_SHADE](0.75 * float(shares[word]))
            axes.text(
                x,
                0.3 + _LINE * number,
                _shown(explanation.words[word], 40),
                fontsize=_WORD_SIZE,
                style="normal" if explanation.known[word] else "italic",
                va="center",
                bbox={"facecolor": background, "edgecolor": "none", "boxstyle": "square,pad=0.18"},
            )
    heaviest = int(np.argmax(explanation.au))
    axes.text(
        _MARGIN,
        0.28 + _LINE * len(lines),
        f"score {explanation.score:.3f}   ·   words shaded by au, their weight in the score (most:"
        f" {_shown(explanation.words[heaviest])} {explanation.au[heaviest]:.2f})",
        fontsize=9,
        color="0.25",
        va="center",
    )


def _draw_picture(
    figure: Figure, explanation: Explanation, picture: Image.Image, boxes: NDArray[np.floating] | None, top: float
) -> None:
    width, height = _fitted(picture, _PICTURE)
    axes = _axes(figure, _MARGIN, top + 0.25, width, height)
    axes.axis("off")
    if boxes is None:
        axes.imshow(np.asarray(picture))
        return
    axes.imshow(np.asarray(shade_regions(picture, boxes, explanation.av)))
    strongest = int(np.argmax(explanation.av))
    _number(axes, picture, boxes, strongest)
    axes.set_title(
        f"regions shaded by av, their weight in the score (most: {strongest} with {explanation.av[strongest]:.2f})",
        fontsize=8,
        loc="left",
    )


def _draw_alignment(
    figure: Figure,
    explanation: Explanation,
    words: NDArray[np.intp],
    regions: NDArray[np.intp],
    corners: tuple[float, float, float, float],
) -> None:
    """Hv as a heat map, words × regions, with av as bars above it."""
    x0, y0, x1, y1 = corners
    bars = _axes(figure, x0, y0 + 0.25, x1 - x0, 0.4)
    bars.bar(np.arange(len(regions)), explanation.av[regions], color="0.45", width=0.8)
    bars.set(xlim=(-0.5, len(regions) - 0.5), ylim=(0, max(float(explanation.av.max()), 1e-6)))
    bars.set_title("Hv: each word's attention over the regions; above it av", fontsize=8, loc="left")
    bars.set_ylabel("av", fontsize=8, rotation=0, ha="right", va="center")
    bars.tick_params(labelbottom=False, bottom=False, labelsize=7)
    bars.spines[["top", "right"]].set_visible(False)
    heat = _axes(figure, x0, y0 + 0.7, x1 - x0, y1 - y0 - 0.7)
    image = heat.imshow(explanation.Hv[np.ix_(regions, words)].T, aspect="auto", cmap="viridis", vmin=0)
    step = -(-len(regions) // 14)
    ticks = np.arange(0, len(regions), step)
    heat.set_xticks(ticks, [str(region) for region in regions[ticks]], fontsize=7)
    heat.set_yticks(np.arange(len(words)), [_shown(explanation.words[word]) for word in words], fontsize=9)
    heat.set_xlabel("region", fontsize=8)
    bar = figure.colorbar(image, cax=_axes(figure, x1 + 0.1, y0 + 0.7, 0.12, y1 - y0 - 0.7))
    bar.ax.tick_params(labelsize=7)
    bar.set_label("attention Hv (a row sums to 1)", fontsize=8)


def _draw_close_ups(
    figure: Figure,
    explanation: Explanation,
    picture: Image.Image,
    boxes: NDArray[np.floating],
    close_ups: Sequence[tuple[int, list[int]]],
    top: float,
    side: float,
) -> None:
    """For each of the top regions: the picture shaded by the attention of the words that look at it."""
    width, height = _fitted(picture, side)
    for number, (region, words) in enumerate(close_ups):
        axes = _axes(figure, _MARGIN + number * (side + 0.15), top + 0.4, width, height)
        axes.axis("off")
        axes.imshow(np.asarray(shade_regions(picture, boxes, explanation.Hv[:, words].mean(axis=1))))
        _number(axes, picture, boxes, region)
        phrase = _shown(" ".join(explanation.words[word] for word in words), 24)
        peak = float(explanation.Hv[region, words].max())
        axes.set_title(f"“{phrase}”\nlooks at region {region} (Hv {peak:.2f})", fontsize=9, loc="left")


def _number(axes: Axes, picture: Image.Image, boxes: NDArray[np.floating], region: int) -> None:
    """A region's number at its box's upper left corner, above it if there is room, since boxes may be small."""
    x0, y0, _, _ = pixel_boxes(picture, boxes[region : region + 1])[0]
    axes.text(
        x0,
        y0,
        str(region),
        fontsize=8,
        va="bottom" if y0 > 0.1 * picture.height else "top",
        bbox={"facecolor": "#ffd200", "edgecolor": "none", "boxstyle": "square,pad=0.15"},
    )


def _strongest(explanation: Explanation) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """The words and regions to show, in order: all, or those with the highest Hv."""
    words = np.sort(np.argsort(-explanation.Hv.max(axis=0), kind="stable")[:MAX_WORDS])
    regions = np.sort(np.argsort(-explanation.Hv.max(axis=1), kind="stable")[:MAX_REGIONS])
    return words, regions


def _close_ups(explanation: Explanation) -> list[tuple[int, list[int]]]:
    """(region, words that attend most to it) for the regions with the highest Hv, in the caption's order.

    A word belongs to the region where its Hv is highest. Words with less than half the Hv of the region's top word are
    omitted, and so are `<start>`, `<end>` and punctuation.
    """
    peaks, places = explanation.Hv.max(axis=0), explanation.Hv.argmax(axis=0)
    by_region: dict[int, list[int]] = {}
    inner = range(1, len(explanation.words) - 1)
    for word in (w for w in inner if any(map(str.isalnum, explanation.words[w]))):
        by_region.setdefault(int(places[word]), []).append(word)
    strongest = sorted(by_region.items(), key=lambda item: -peaks[item[1]].max())[:_CLOSE_UPS]
    result = [(region, [w for w in words if peaks[w] >= peaks[words].max() / 2]) for region, words in strongest]
    return sorted(result, key=lambda item: item[1])


def _word_lines(words: Sequence[str]) -> list[list[tuple[int, float]]]:
    """Lines of (word index, x in inches), wrapped at the figure's width."""
    lines: list[list[tuple[int, float]]] = [[]]
    x = _MARGIN + 0.05
    for index, word in enumerate(words):
        width = TextPath((0, 0), _shown(word, 40), size=_WORD_SIZE).get_extents().width / 72 + 0.13
        if x + width > _WIDTH - _MARGIN and lines[-1]:
            lines.append([])
            x = _MARGIN + 0.05
        lines[-1].append((index, x))
        x += width
    return lines


def _notes(explanation: Explanation, words: NDArray[np.intp], regions: NDArray[np.intp], without_boxes: bool) -> str:
    """A one-line note of what the figure omits."""
    notes = []
    if len(words) < len(explanation.words):
        notes.append(f"heat map: the {len(words)} strongest of {len(explanation.words)} words")
    if len(regions) < len(explanation.av):
        notes.append(f"heat map: the {len(regions)} strongest of {len(explanation.av)} regions")
    if not all(explanation.known):
        notes.append("italic: not in the model's vocabulary")
    if without_boxes:
        notes.append("not shaded: no boxes or grid given")
    return "; ".join(notes)


def _axes(figure: Figure, left: float, top: float, width: float, height: float) -> Axes:
    """Axes placed in inches from the figure's upper left corner."""
    whole_width, whole_height = figure.get_size_inches()
    bottom = whole_height - top - height
    return figure.add_axes((left / whole_width, bottom / whole_height, width / whole_width, height / whole_height))


def _fitted(picture: Image.Image, side: float) -> tuple[float, float]:
    """Width and height of a picture scaled to fit a square."""
    scale = side / max(picture.size)
    return picture.width * scale, picture.height * scale


def _shown(text: str, letters: int = _WORD_LETTERS) -> str:
    """Truncate long text, and escape dollars, which would start a formula."""
    short = text if len(text) <= letters else f"{text[: letters - 1]}…"
    return short.replace("$", r"\$")
