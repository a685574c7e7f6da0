"""C++ tokenizes captions exactly as Python does, or refuses them with the same message."""

import json
import random
import re
import shutil
import unicodedata

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from caan.bundle import write_manifest
from caan.data.scan import open_split
from caan.data.vocabulary import SPECIAL_TOKENS, TOKENIZERS, Vocabulary
from caan.errors import CaanError
from tests.cpp.conftest import CPP

# Words that need correct lower-casing and tokenizing: the final sigma, dots, ligatures, marks, digits, apostrophes.
WORDS = ["a", "b", "ς", "σ", "ας", "i̇", "ß", "ﬁ", "é", "e", "中", "½", "_", "...", "'", "s", ",", "´", "ǆ", "ᾳ"]
# What the rules of the tokenizer nltk look for, and what stands around it.
TREEBANK = [
    *" .,:;'\"`?!()[]{}<>-*@#$%&«»“”‘’„‒—_ABs5٣½²中ıſé",
    *["  ", "..", "...", "--", "''", "``", "\t", "\n", "\xa0", "\u3000", "\x85", "\x1c", "\u0307", "'s", "n't", "'ll"],
    *[
        "CANNOT",
        "can",
        "d'ye",
        "gimme",
        "gonna",
        "more'n",
        "wanna",
        "'tis",
        "'twas",
        "u.s.",
        "st.",
        "3.5",
        "tıs",
        "dog",
    ],
]
UNASSIGNED = "\u0378"  # in every version of Unicode so far
TABLES = re.search(r"Unicode ([\d.]+)", (CPP / "src" / "unicode_tables.hpp").read_text(encoding="utf-8")).group(1)


@pytest.fixture(scope="module", params=TOKENIZERS)
def tokenizers(request, open_both, tiny_folder, tmp_path_factory):
    """Two functions from a caption to each side's tokens; a refused caption gives the message."""
    bundle = tmp_path_factory.mktemp(request.param) / "model.caan"
    shutil.copytree(tiny_folder / "model.caan", bundle)
    words = {word: number for number, word in enumerate([*SPECIAL_TOKENS, *WORDS])}
    Vocabulary(words, request.param).save(bundle / "vocab.json")
    write_manifest(bundle, json.loads((bundle / "manifest.json").read_text()))
    return of_both(open_both(bundle))


def of_both(both):
    ours, theirs = both
    vocabulary, limit = ours.backend.model.vocabulary, ours.backend.model.limits["words"]

    def in_python(caption):
        ids = vocabulary.encode(caption)
        return ids if len(ids) <= limit else [*ids[: limit - 1], ids[-1]]

    return or_message(in_python), or_message(theirs.tokenize)


def or_message(function):
    def call(caption):
        try:
            return function(caption)
        except Exception as error:
            if not isinstance(error, CaanError) and not hasattr(error, "code"):
                raise
            return str(error)

    return call


def test_all_captions_of_flickr8k(open_both, flickr8k, flickr8k_bundle):
    in_python, in_cpp = of_both(open_both(flickr8k_bundle))
    captions = open_split(flickr8k).captions
    assert len(captions) == 5000
    assert [caption for caption in captions if in_cpp(caption) != in_python(caption)] == []


def test_the_words_of_nltk(open_both, tiny_folder, tmp_path):
    """Captions full of what its rules look for, with a vocabulary of all their words: the ids show each word."""
    draw = random.Random(1)
    made = ["".join(draw.choice(TREEBANK) + draw.choice(["", "", " "]) for _ in range(12)) for _ in range(3000)]
    captions = [caption for caption in made if caption.strip()]
    words = dict.fromkeys(word for caption in captions for word in TOKENIZERS["nltk"](caption))
    bundle = with_words(tiny_folder, tmp_path, [word for word in words if word not in SPECIAL_TOKENS], "nltk")
    in_python, in_cpp = of_both(open_both(bundle))
    assert len(words) > 1000
    assert [caption for caption in captions if in_cpp(caption) != in_python(caption)] == []


def test_all_captions_of_flickr8k_have_the_words_of_nltk(open_both, tiny_folder, flickr8k, tmp_path):
    captions = [caption for split in ("test", "train") for caption in open_split(flickr8k, split).captions]
    words = dict.fromkeys(word for caption in captions for word in TOKENIZERS["nltk"](caption))
    in_python, in_cpp = of_both(open_both(with_words(tiny_folder, tmp_path, list(words), "nltk")))
    assert [caption for caption in captions if in_cpp(caption) != in_python(caption)] == []


def test_special_words_are_found_by_name(open_both, tiny_folder, tmp_path):
    bundle = tmp_path / "model.caan"
    shutil.copytree(tiny_folder / "model.caan", bundle)
    words = json.loads((bundle / "vocab.json").read_text())["words"]
    last = max(words.values())
    Vocabulary({word: last - number for word, number in words.items()}).save(bundle / "vocab.json")
    write_manifest(bundle, json.loads((bundle / "manifest.json").read_text()))
    ours, theirs = open_both(bundle)
    captions = ["w1 w2 zebra", "w3", "w1 " * 9]
    for caption in captions:
        ids = theirs.tokenize(caption)
        assert ids == ours.backend.model.vocabulary.encode(caption)
        assert (ids[0], ids[-1]) == (last - 1, last - 2)
    with pytest.raises(CaanError, match="no word of 'zebra' is in the model's vocabulary") as refused:
        ours.search_many(["zebra"], ours.encode_images(np.ones((2, 3, 12), np.float32)))
    gallery = theirs.encode_images(np.ones((2, 3, 12), np.float32))
    with pytest.raises(Exception, match=re.escape(str(refused.value))):
        theirs.search_many(["zebra"], gallery, 1)


def with_words(tiny_folder, folder, words, tokenizer="whitespace"):
    """The tiny bundle with another vocabulary, to tokenize with: nothing can be encoded."""
    bundle = folder / "model.caan"
    shutil.copytree(tiny_folder / "model.caan", bundle)
    vocabulary = Vocabulary({word: number for number, word in enumerate([*SPECIAL_TOKENS, *words])}, tokenizer)
    vocabulary.save(bundle / "vocab.json")
    manifest = json.loads((bundle / "manifest.json").read_text())
    manifest["config"]["vocab_size"] = len(vocabulary)
    write_manifest(bundle, manifest)
    return bundle


def test_all_captions_of_the_demo_world(open_both, demo_bundle, demo_run):
    in_python, in_cpp = of_both(open_both(demo_bundle))
    assert [text for text in open_split(demo_run.data).captions if in_cpp(text) != in_python(text)] == []


pieces = st.sampled_from(
    [*WORDS, *"ΣΑİIẞǄᾼ", " ", "\t", "\x1c", "\x85", "\u3000", "\u200b", "\u0345", "\u00ad", "\u0307"]
)
captions = st.lists(pieces | st.characters(exclude_characters="\0", exclude_categories=["Cs"])).map("".join)


@settings(max_examples=500)
@given(captions)
def test_any_caption(tokenizers, caption):
    in_python, in_cpp = tokenizers
    assert in_cpp(caption) == in_python(caption)


@settings(max_examples=200)
@given(st.binary(max_size=80).filter(lambda text: b"\0" not in text))
def test_any_bytes(tokenizers, text):
    """Bytes that are not UTF-8 are refused, named as Python names them."""
    in_python, in_cpp = tokenizers
    caption = text.decode("utf-8", "surrogateescape")
    assert in_cpp(caption) == in_python(caption)


@pytest.mark.parametrize("tokenizers", ["whitespace", "word-punct"], indirect=True)
def test_every_character_is_tokenized_alike(tokenizers):
    """Between two known words each character is space, part of a word, or a word of its own: the ids show which."""
    in_python, in_cpp = tokenizers
    characters = [chr(code) for code in range(1, 0x110000) if not 0xD800 <= code < 0xE000]
    for start in range(0, len(characters), 40):
        some = characters[start : start + 40]
        caption = " ".join(f"a{character}b" for character in some)
        if in_cpp(caption) != in_python(caption):
            assert_only_newer_differ(in_python, in_cpp, [(character, f"a{character}b") for character in some])


@pytest.mark.parametrize("tokenizers", ["nltk"], indirect=True)
def test_every_digit_is_tokenized_alike(tokenizers):
    """A comma stays on its word before a digit of any script; the other classes are word-punct's too."""
    in_python, in_cpp = tokenizers
    numeric = [chr(code) for code in range(0x110000) if chr(code).isnumeric()]
    assert len(numeric) > 1000
    for character in numeric:
        if in_cpp(f"a,{character}") != in_python(f"a,{character}"):
            assert_only_newer_differ(in_python, in_cpp, [(character, f"a,{character}")])


def test_a_vocabulary_with_a_byte_order_mark(open_both, tiny_folder, tmp_path):
    bundle = tmp_path / "model.caan"
    shutil.copytree(tiny_folder / "model.caan", bundle)
    manifest = json.loads((bundle / "manifest.json").read_text())
    (bundle / "vocab.json").write_bytes(b"\xef\xbb\xbf" + (bundle / "vocab.json").read_bytes())
    write_manifest(bundle, manifest)
    (bundle / "manifest.json").write_bytes(b"\xef\xbb\xbf" + (bundle / "manifest.json").read_bytes())
    in_python, in_cpp = of_both(open_both(bundle))
    assert in_cpp("w1 w2 zebra") == in_python("w1 w2 zebra") == [1, 5, 6, 3, 2]


def test_every_capital_is_lowered_alike(open_both, tiny_folder, tmp_path):
    """Each character that str.lower changes, with a vocabulary of the results."""
    capitals = [chr(code) for code in range(0x80, 0x110000) if chr(code).lower() != chr(code)]
    assert len(capitals) > 1_000
    lowered = dict.fromkeys(f"x{capital.lower()}" for capital in capitals)
    in_python, in_cpp = of_both(open_both(with_words(tiny_folder, tmp_path, lowered)))
    for capital in capitals:
        found = in_cpp(f"x{capital} X{capital}y")
        if found != in_python(f"x{capital} X{capital}y"):
            assert_only_newer_differ(in_python, in_cpp, [(capital, f"x{capital} X{capital}y")])
        else:
            assert found[1] > 3 or capital == "Σ", ascii(capital)


def assert_only_newer_differ(in_python, in_cpp, captions):
    """captions: (character, caption with it). A Python of a later Unicode than C++'s tables, and it alone, may know
    characters that C++ takes for unassigned ones.
    """
    for character, caption in captions:
        if in_cpp(caption) != in_python(caption):
            assert is_newer(unicodedata.unidata_version, TABLES), (ascii(caption), unicodedata.unidata_version, TABLES)
            assert unicodedata.category(character) != "Cn", ascii(caption)
            assert in_cpp(caption) == in_cpp(caption.replace(character, UNASSIGNED)), ascii(caption)


def is_newer(version, other):
    return [int(part) for part in version.split(".")] > [int(part) for part in other.split(".")]


def test_a_python_of_another_unicode_is_excused_for_new_characters_alone(monkeypatch):
    """A C++ that does not know "é" has old tables; if they are as new as this Python's, it is an error."""

    def without_accents(caption):
        return [1, 3 if "é" in caption or UNASSIGNED in caption else 4, 2]

    with pytest.raises(AssertionError):
        assert_only_newer_differ(lambda caption: [1, 4, 2], without_accents, [("é", "aéb")])
    monkeypatch.setattr(unicodedata, "unidata_version", "99.0.0")
    assert_only_newer_differ(lambda caption: [1, 4, 2], without_accents, [("é", "aéb")])
    with pytest.raises(AssertionError):  # known to C++, and cut otherwise
        assert_only_newer_differ(lambda caption: [1, 4, 2], lambda caption: [1, "é" in caption, 2], [("é", "aéb")])
