"""The figure of an explanation: correct for any sizes, and without changes to matplotlib's global state."""

import subprocess
import sys

import matplotlib
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image

from caan.pictures.attention import MAX_REGIONS, MAX_WORDS, draw_explanation
from caan.pictures.regions import grid_boxes
from caan.runtime import Explanation


def explanation(words, regions, seed=0, known=None):
    """Random attention of a caption's words over some regions."""
    generator, all_words = np.random.default_rng(seed), ["<start>", *words, "<end>"]
    H = generator.uniform(-1, 1, (regions, len(all_words))).astype(np.float32)
    shares = np.exp(4 * H)
    return Explanation(
        score=0.5,
        words=all_words,
        known=[known is None or word in known for word in all_words],
        H=H,
        Hu=shares / shares.sum(axis=1, keepdims=True),
        Hv=shares / shares.sum(axis=0, keepdims=True),
        av=generator.dirichlet(np.ones(regions)).astype(np.float32),
        au=generator.dirichlet(np.ones(len(all_words))).astype(np.float32),
    )


def picture(width=60, height=40):
    return Image.new("RGB", (width, height), (90, 120, 150))


def rendered(figure):
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba()), canvas.get_renderer()


def texts(figure):
    return [text for axes in figure.axes for text in [*axes.texts, axes.title, axes._left_title]] + figure.texts


def said(figure):
    return " | ".join(text.get_text() for text in texts(figure))


def labels(figure):
    """The words beside the heat map."""
    (heat,) = [axes for axes in figure.axes if axes.get_xlabel() == "region"]
    return [label.get_text() for label in heat.get_yticklabels()]


def test_the_caption_the_score_and_the_quantities_are_named():
    figure = draw_explanation(explanation(["red", "bird"], 6), picture(), grid_boxes(2, 3))
    text = said(figure)
    assert all(part in text for part in ("red", "bird", "score 0.500", "au", "av", "Hv", "looks at region"))
    assert labels(figure) == ["<start>", "red", "bird", "<end>"]


def test_the_heat_map_is_hv_words_down_regions_across():
    result = explanation(["red", "bird"], 6)
    (heat,) = [axes for axes in draw_explanation(result).axes if axes.get_xlabel() == "region"]
    assert np.array_equal(heat.images[0].get_array(), result.Hv.T)


def test_a_word_is_shaded_by_its_weight():
    result = explanation(["red", "bird"], 4)
    heaviest = result.words[int(result.au.argmax())]
    drawn = texts(draw_explanation(result))
    boxes = {text.get_text(): text.get_bbox_patch() for text in drawn if text.get_bbox_patch()}
    darkest = min(boxes, key=lambda word: sum(boxes[word].get_facecolor()[:3]))
    assert darkest == heaviest


def test_a_close_up_is_of_the_words_that_look_there():
    result = explanation(["red", "bird", "."], 3)
    result.Hv[:] = 0.1
    result.Hv[1, 1:3], result.Hv[2, 3] = 0.8, 0.8  # "red bird" at region 1, the full stop at region 2
    text = said(draw_explanation(result, picture(), grid_boxes(1, 3)))
    assert "“red bird”\nlooks at region 1 (Hv 0.80)" in text and "region 2 (" not in text


@pytest.mark.parametrize("size", [(60, 40), (40, 200), (400, 40)], ids=["photo", "tall", "wide"])
@pytest.mark.parametrize(("words", "grid"), [(1, (1, 1)), (14, (6, 6)), (88, (10, 10)), (88, (1, 2)), (2, (10, 10))])
def test_nothing_is_written_outside_whatever_the_sizes(words, grid, size):
    boxes = grid_boxes(*grid)
    figure = draw_explanation(explanation([f"word{n}" for n in range(words)], len(boxes)), picture(*size), boxes)
    pixels, renderer = rendered(figure)
    height, width = pixels.shape[:2]
    assert width == 1080 and height <= 2400
    for text in texts(figure):
        if text.get_text():
            box = text.get_window_extent(renderer)
            assert box.x0 >= 0 and box.x1 <= width and box.y0 >= 0 and box.y1 <= height, text.get_text()


def test_a_long_caption_and_many_regions_are_cut_with_a_note():
    figure = draw_explanation(explanation([f"w{n}" for n in range(88)], 100))
    assert len(labels(figure)) == MAX_WORDS
    assert f"the {MAX_WORDS} strongest of 90 words" in said(figure)
    assert f"the {MAX_REGIONS} strongest of 100 regions" in said(figure)
    assert "w87" in said(figure)  # the caption itself is complete


def test_without_boxes_the_picture_says_why_it_is_not_shaded():
    assert "not shaded" in said(draw_explanation(explanation(["dog"], 4), picture()))


def test_boxes_without_a_picture_are_drawn_on_grey():
    assert "looks at region" in said(draw_explanation(explanation(["dog"], 4), None, grid_boxes(2, 2)))


def test_unknown_words_are_italic_and_explained():
    figure = draw_explanation(explanation(["red", "zebra"], 4, known={"<start>", "red", "<end>"}))
    styles = {text.get_text(): text.get_style() for text in figure.axes[0].texts}
    assert (styles["red"], styles["zebra"]) == ("normal", "italic")
    assert "not in the model's vocabulary" in said(figure)


def test_dollars_are_no_formula_and_long_words_are_cut():
    figure = draw_explanation(explanation(["$x^2", "costs", "5$", "x" * 200], 4))
    rendered(figure)
    assert any(label.endswith("…") for label in labels(figure))


def test_matplotlib_s_own_state_is_left_alone():
    before = dict(matplotlib.rcParams)
    rendered(draw_explanation(explanation(["dog"], 4), picture(), grid_boxes(2, 2)))
    assert dict(matplotlib.rcParams) == before


def test_pyplot_is_not_even_loaded(tmp_path):
    """In a separate process: packages of other tests may load it."""
    np.savez(tmp_path / "found.npz", H=np.full((4, 3), 0.25, np.float32), av=np.full(4, 0.25), au=np.full(3, 1 / 3))
    program = (
        "import sys, numpy as np\n"
        "from caan.pictures.attention import draw_explanation\n"
        "from caan.pictures.regions import grid_boxes\n"
        "from caan.runtime import Explanation\n"
        f"f = np.load({str(tmp_path / 'found.npz')!r}); H = f['H']\n"
        "found = Explanation(0.5, ['<start>', 'dog', '<end>'], [True] * 3, H, H, H, f['av'], f['au'])\n"
        f"draw_explanation(found, None, grid_boxes(2, 2)).savefig({str(tmp_path / 'found.png')!r})\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert Image.open(tmp_path / "found.png").width == 1080


def test_the_same_explanation_is_the_same_picture():
    first, second = (rendered(draw_explanation(explanation(["dog"], 4), picture(), grid_boxes(2, 2)))[0] for _ in "ab")
    assert np.array_equal(first, second)
