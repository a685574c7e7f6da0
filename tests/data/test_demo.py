"""The demo world: reproducible, true captions, features computed only from pixels."""

import hashlib
import importlib.util
import itertools
import os
import re
import subprocess
import sys
from dataclasses import replace
from random import Random

import numpy as np
import pytest
from PIL import Image

from caan.data.demo.captions import write_captions
from caan.data.demo.painting import paint
from caan.data.demo.regions import REGION_DIM, REGIONS, region_features
from caan.data.demo.scenes import KINDS, sample_scene
from caan.data.demo.world import make_split, write_world
from caan.data.scan import open_split
from caan.data.vocabulary import Vocabulary
from caan.errors import MissingError, OutputError

# The meaning of a caption's words, independent of the grammar that made it.
KIND_OF = {
    "dog": "dog", "cat": "cat", "horse": "horse", "sheep": "sheep", "duck": "duck", "ducks": "duck", "girl": "girl",
    "boy": "boy", "house": "house", "home": "house", "tent": "tent", "tree": "tree", "flower": "flower",
    "flowers": "flower", "umbrella": "umbrella", "parasol": "umbrella", "ball": "ball", "car": "car", "bus": "bus",
    "snowman": "snowman", "lighthouse": "lighthouse", "boat": "boat", "sailboat": "boat", "whale": "whale",
    "bird": "bird", "birds": "bird", "balloon": "balloon", "kite": "kite", "plane": "plane", "airplane": "plane",
    "pine": "pine",
}  # fmt: skip
SIZE_OF = {"small": "small", "little": "small", "tiny": "small", "big": "big", "large": "big"}
COUNT_OF = {"a": 1, "an": 1, "two": 2, "three": 3}
STATE_OF = {
    "sitting": "sitting", "sits": "sitting", "sleeping": "sleeping", "sleeps": "sleeping", "walking": "walking",
    "walks": "walking", "running": "running", "runs": "running", "galloping": "running", "gallops": "running",
    "waving": "waving", "waves": "waving", "jumping": "jumping", "jumps": "jumping", "smoke": "smoking",
    "smoking": "smoking", "fruit": "fruit", "spouting": "spouting", "spouts": "spouting", "covered": "snowy",
}  # fmt: skip
PLACE_OF = {
    "meadow": "meadow", "grass": "meadow", "grassy": "meadow", "snow": "snow", "snowy": "snow", "beach": "beach",
    "sand": "beach", "sandy": "beach", "shore": "beach", "desert": "desert", "cactuses": "desert", "dunes": "desert",
    "street": "street", "road": "street", "city": "street", "buildings": "street", "sea": "sea", "waves": "sea",
    "water": "sea",
}  # fmt: skip
SKY_OF = {
    "sunny day": "day", "blue sky": "day", "sunshine": "day", "sunset": "sunset", "orange sky": "sunset",
    "sun sets": "sunset", "night": "night", "stars": "night", "moonlight": "night",
}  # fmt: skip
COLOURS = {
    "red": (220, 40, 50), "blue": (45, 90, 215), "green": (45, 160, 75), "yellow": (250, 210, 50),
    "orange": (240, 130, 30), "purple": (135, 65, 180), "pink": (250, 140, 185), "white": (245, 245, 245),
    "black": (50, 45, 55), "gray": (150, 150, 160), "brown": (140, 90, 50),
}  # fmt: skip
RELATIONS = {
    "left of": lambda a, b: a.x < b.x,
    "right of": lambda a, b: a.x > b.x,
    "next to": lambda a, b: gap(a, b) < 0.15 and abs(a.base - b.base) < 0.15,
    "beside": lambda a, b: gap(a, b) < 0.15 and abs(a.base - b.base) < 0.15,
    "in front of": lambda a, b: a.base > b.base and gap(a, b) < 0.05,
    "behind": lambda a, b: a.base < b.base and gap(a, b) < 0.05,
    "above": lambda a, b: a.base < b.base - b.height and gap(a, b) <= 0,
    "over": lambda a, b: a.base < b.base - b.height and gap(a, b) <= 0,
    "below": lambda a, b: b.base < a.base - a.height and gap(a, b) <= 0,
    "under": lambda a, b: b.base < a.base - a.height and gap(a, b) <= 0,
}
SIDES = {"on the left": (0, 0.4), "in the middle": (0.4, 0.6), "on the right": (0.6, 1)}
GARMENT = r"(?:in|wearing|with) an? (\w+) (?:dress|shirt|scarf)|dressed in (\w+)"
SCENES = 300


def gap(a, b):
    """The horizontal gap between two things; negative if they overlap."""
    return abs(a.x - b.x) - (a.width + b.width) / 2


def is_true(caption, scene):
    """Whether everything the caption claims holds in the scene."""
    words = re.sub("(pine|fir) tree", "pine", caption.removesuffix(" .")).split()
    things = {thing.kind: thing for thing in scene.things}
    phrases = [position for position, word in enumerate(words) if is_noun(words, position)]
    if any(KIND_OF[words[position]] not in things for position in phrases):
        return False
    for position, following in zip(phrases, [*phrases[1:], len(words)], strict=True):
        before = words[:position]
        start = max(i for i, word in enumerate(before) if word in COUNT_OF)
        end = following
        while end < len(words) and end > position + 1 and words[end - 1] not in COUNT_OF:
            end -= 1
        thing = things[KIND_OF[words[position]]]
        if not holds(words[start:position], " ".join(words[position + 1 : end]), thing, scene):
            return False
    for (here, there), relation in between(words, phrases):
        if not RELATIONS[relation](things[KIND_OF[words[here]]], things[KIND_OF[words[there]]]):
            return False
    return setting_holds(caption, scene)


def is_noun(words, position):
    return words[position] in KIND_OF and any(word in COUNT_OF for word in words[:position])


def holds(adjectives, tail, thing, scene):
    claims = []
    kind = thing.kind
    colours = [word for word in adjectives if word in COLOURS]
    if kind == "balloon" and len(colours) == 2:
        claims.append(colours == [thing.colour, thing.accent])
    elif colours:
        claims.append(colours == [thing.colour])
    claims.append(COUNT_OF[adjectives[0]] == thing.count)
    claims += [SIZE_OF[word] == thing.size for word in adjectives if word in SIZE_OF]
    claims += [STATE_OF[word] == thing.state for word in adjectives if word in STATE_OF]
    if "striped" in adjectives:
        claims.append(kind == "lighthouse" or thing.state == "striped")
    if worn := re.match(GARMENT, tail):
        claims.append((worn[1] or worn[2]) == thing.colour and kind in ("girl", "boy", "snowman"))
    if accent := re.match(r"with (?:a (\w+) roof|(\w+) sails)", tail):
        claims.append((accent[1] or accent[2]) == thing.accent)
    place = {"waves"} if kind not in ("girl", "boy") else set()
    claims += [STATE_OF[word] == thing.state for word in verb_of(tail) if word in STATE_OF and word not in place]
    if facing := re.search(r"facing (left|right)|to the (left|right)(?! of)", tail):
        claims.append((facing[1] or facing[2]) == thing.facing)
    claims += [low <= thing.x <= high for phrase, (low, high) in SIDES.items() if tail.startswith(phrase)]
    return all(claims)


def verb_of(tail):
    """The words after a noun up to the place or the other thing."""
    return re.split(r" (?:while|and|,|next|left|right|beside|above|under|over|below|behind|at|by|on|in) ", f" {tail} ")[
        0
    ].split()


def between(words, phrases):
    """The relation right before the article of a noun phrase, and the two nouns it joins."""
    for here, there in itertools.pairwise(phrases):
        start = max(i for i in range(there) if words[i] in COUNT_OF)
        middle = f" {' '.join(words[here + 1 : start])}"
        for relation in RELATIONS:
            if middle.endswith(f" {relation}"):
                yield (here, there), relation


def setting_holds(caption, scene):
    text = re.sub(r"(covered in snow|snow covered|with snow on it|spout\w+ water|waves (?!\.|$))", "", f"{caption} ")
    waving = "wav" in caption and any(thing.kind in ("girl", "boy") for thing in scene.things)
    for word, place in PLACE_OF.items():
        if re.search(rf"\b{word}\b", text) and place != scene.place and not (word == "waves" and waving):
            return False
    return all(sky == scene.sky for phrase, sky in SKY_OF.items() if phrase in text)


@pytest.fixture(scope="module")
def described():
    """Scenes with their captions, not drawn."""
    result = []
    for number in range(SCENES):
        rng = Random(f"test {number}")
        scene = sample_scene(rng)
        result.append((scene, write_captions(scene, rng)))
    return result


@pytest.fixture(scope="module")
def split():
    return make_split(12, seed=3)


def test_the_same_seed_gives_the_same_bytes_in_another_process_with_other_threads():
    program = (
        "import hashlib; from caan.data.demo.world import make_split; s = make_split(4, seed=5);"
        "content = [s.features.tobytes(), s.boxes.tobytes(), repr(s.captions).encode()];"
        "content += [image.tobytes() for image in s.images];"
        "print(hashlib.sha256(b''.join(content)).hexdigest())"
    )
    digests = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "OPENBLAS_NUM_THREADS": threads, "OMP_NUM_THREADS": threads, "PYTHONHASHSEED": threads},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for threads in ("1", "2")
    }
    assert len(digests) == 1
    other = make_split(4, seed=6)
    assert hashlib.sha256(other.features.tobytes()).hexdigest() not in digests.pop()


def test_a_scene_depends_on_its_number_alone(split):
    tail = make_split(2, seed=3, first=10)
    assert tail.ids == split.ids[10:] == ["scene-000010", "scene-000011"]
    assert tail.captions == split.captions[10:]
    np.testing.assert_array_equal(tail.features, split.features[10:])


def test_captions_are_true(described):
    wrong = [(caption, scene) for scene, captions in described for caption in captions if not is_true(caption, scene)]
    assert wrong == []


def test_a_caption_is_false_of_a_scene_that_differs_in_what_it_says(described):
    """The truth test can fail: another colour, count, place or sky makes captions false, and mirroring relations."""
    for change, least in (
        (lambda scene: repaint(scene), 0.75),
        (lambda scene: replace(scene, place="snow" if scene.place != "snow" else "sea"), 0.3),
        (lambda scene: replace(scene, sky="night" if scene.sky != "night" else "day"), 0.25),
        (lambda scene: replace(scene, things=tuple(replace(t, count=9) for t in scene.things)), 0.99),
        (lambda scene: replace(scene, things=tuple(replace(t, x=1 - t.x) for t in scene.things)), 0.25),
        (lambda scene: replace(scene, things=tuple(replace(t, state="?") for t in scene.things)), 0.1),
    ):
        verdicts = [is_true(caption, change(scene)) for scene, captions in described for caption in captions]
        assert 1 - np.mean(verdicts) > least


def repaint(scene):
    return replace(scene, things=tuple(replace(thing, colour="magenta", accent="teal") for thing in scene.things))


def test_there_are_five_captions_of_many_lengths(described):
    lengths = set()
    for _, captions in described:
        assert len(captions) == len(set(captions)) == 5
        for caption in captions:
            assert caption == caption.lower() == " ".join(caption.split())
            assert re.fullmatch(r"[a-z]+( [a-z]+| ,)*( \.)?", caption)
            lengths.add(len(caption.split()))
    assert set(range(7, 20)) <= lengths
    assert min(lengths) >= 5
    assert max(lengths) <= 22


def test_captions_rarely_fit_another_scene(described):
    fitting = [
        sum(is_true(caption, other) for other, _ in described[:200] if other is not scene)
        for scene, captions in described[:200]
        for caption in captions
    ]
    assert np.mean(fitting) < 0.5
    assert np.mean([count == 0 for count in fitting]) > 0.8


def test_what_captions_call_red_is_red(described):
    for scene, _ in described[:25]:
        image, _ = paint(scene)
        pixels = np.asarray(image).astype(int)
        for thing in scene.things:
            x0, y0, x1, y1 = (round(224 * min(1, max(0, v))) for v in thing.box)
            distance = np.abs(pixels[y0:y1, x0:x1] - COLOURS[thing.colour]).max(-1)
            floor = 0.02 if thing.kind == "snowman" else 0.08
            assert (distance < 45).mean() > floor, thing


def test_boxes_are_within_the_image_and_on_what_is_drawn(split):
    assert split.boxes.shape == (12, REGIONS, 4)
    assert split.boxes.dtype == np.float32
    assert split.boxes.min() >= 0
    assert split.boxes.max() <= 1
    assert (split.boxes[..., 2:] - split.boxes[..., :2] > 0.01).all()
    for scene, boxes in zip(split.scenes, split.boxes, strict=True):
        drawn = paint(scene)[1]
        assert len(drawn) == sum(thing.count for thing in scene.things)
        for box in drawn:
            assert max(overlap(box, found) for found in boxes) > 0.7


def overlap(a, b):
    """Intersection over union."""
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    shared = max(0, width) * max(0, height)
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)]
    return shared / (sum(areas) - shared)


def test_features_are_finite_and_of_one_scale(split):
    assert split.features.shape == (12, REGIONS, REGION_DIM)
    assert split.features.dtype == np.float32
    assert np.isfinite(split.features).all()
    assert 0.7 < split.features.std() < 1.4
    assert (split.features.std(axis=(0, 1)) > 0.1).all()


def test_features_come_from_the_pixels_in_the_box_alone(split):
    image, boxes = split.images[0], split.boxes[0]
    np.testing.assert_array_equal(region_features(image, boxes), split.features[0])
    smallest = int(((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])).argmin())
    x0, y0, x1, y1 = (224 * boxes[smallest]).astype(int)
    inside, outside = image.copy(), Image.new("RGB", image.size, (90, 200, 10))
    inside.paste((90, 200, 10), (x0, y0, x1, y1))
    margin = (max(0, x0 - 3), max(0, y0 - 3), x1 + 4, y1 + 4)
    outside.paste(image.crop(margin), margin[:2])
    assert np.abs(region_features(inside, boxes)[smallest] - split.features[0, smallest]).max() > 0.5
    np.testing.assert_array_equal(region_features(outside, boxes)[smallest], split.features[0, smallest])


def test_every_kind_and_state_can_be_drawn(described):
    seen = {(thing.kind, thing.state) for scene, _ in described for thing in scene.things}
    assert seen == {(name, state) for name, kind in KINDS.items() for state in kind.states}


def test_without_pillow_it_says_what_to_install(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingError, match=r"pip install '.*\[demo\]'"):
        make_split(1)


def test_a_written_world_is_a_data_set(tmp_path):
    write_world(tmp_path / "world", seed=1, train=6, dev=2, test=2)
    train, dev, test = (open_split(tmp_path / "world", name) for name in ("train", "dev", "test"))
    assert [len(part.features) for part in (train, dev, test)] == [6, 2, 2]
    assert len({*train.ids, *dev.ids, *test.ids}) == 10
    assert dev.captions == [caption for group in make_split(2, 1, first=6).captions for caption in group]
    thumbnails = sorted(path.stem for path in (tmp_path / "world/thumbnails").glob("*.png"))
    assert thumbnails == sorted([*dev.ids, *test.ids])
    assert np.load(tmp_path / "world/test_boxes.npy").shape == (2, REGIONS, 4)
    assert "ball" in Vocabulary.build(train.captions, min_count=1).words
    assert Vocabulary.load(train.vocabulary_path).tokenizer == "whitespace"


def test_an_unwritable_folder_is_an_output_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="file"):
        write_world(tmp_path / "file" / "world", train=1, dev=1, test=1)
