"""The tokenizer nltk: words equal NLTK's, sentences Punkt's."""

import json

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from nltk.tokenize import NLTKWordTokenizer
from nltk.tokenize.punkt import PunktParameters, PunktSentenceTokenizer

from caan.data.scan import read_captions
from caan.data.treebank import sentences, treebank_words, word_tokenize
from caan.data.vocabulary import SPECIAL_TOKENS, Vocabulary

from ..conftest import SHARED

nltk_words = NLTKWordTokenizer().tokenize

# What the rules look for, and what stands around it.
PIECES = [
    *" .,:;'\"`?!()[]{}<>-*@#$%&«»“”‘’„‒—_",
    *["  ", "..", "...", "--", "''", "``", "\t", "\n", "\xa0", "\u3000", "\x85", "\x1c", "\u0307"],
    *["cannot", "can", "not", "d'ye", "gimme", "gonna", "gotta", "lemme", "more'n", "wanna", "'tis", "'twas", "don't"],
    *[
        "'s",
        "'re",
        "n't",
        "'ll",
        "'ve",
        "'m",
        "'d",
        "'t",
        "u.s.",
        "st.",
        "3.5",
        "5",
        "٣",
        "½",
        "²",
        "é",
        "中",
        "a",
        "dog",
    ],
    *["tıs", "twaſ", "gımme", "ſ", "ı"],  # ı and ſ are I and S where case is ignored
]
captions = st.lists(st.one_of(st.sampled_from(PIECES), st.characters(exclude_categories=["Cs"])), max_size=12)


@pytest.fixture(scope="module")
def field_captions():
    path = SHARED / "field" / "captions.jsonl"
    if not path.is_file():
        pytest.skip("needs the field's captions, which are for tests only and not part of the project")
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_captions_as_people_type_them_have_the_tokens_of_nltks_word_tokenize(field_captions):
    """Punkt's sentences included."""
    vocabulary = Vocabulary(SPECIAL_TOKENS, "nltk")
    different = [c["caption"] for c in field_captions if vocabulary.tokenize(c["caption"]) != c["tokens"]]
    assert len(field_captions) > 600
    assert different == []


def test_every_caption_of_flickr8k_has_nltks_words(flickr8k):
    lines = [line.lower() for split in ("train", "test") for line in read_captions(flickr8k / f"{split}_caps.txt")]
    assert len(lines) > 7000
    assert [line for line in lines if treebank_words(line) != nltk_words(line)] == []


@settings(max_examples=500, deadline=None)
@example("a 'ſ b gımme'tıs gimme'twaſ lemme'")
@example("'tis 'twas d'ye gotta more'n wanna wanna. cannot gonna ''tis")
@example('"a", b:c 3,4 5: d.) \t')
@given(captions.map("".join))
def test_any_text_has_nltks_words(text):
    text = text.lower()
    assert treebank_words(text) == nltk_words(text)


@pytest.mark.parametrize(
    ("caption", "tokens"),
    [
        ("A boy's t-shirt; he doesn't smile.", "a boy 's t-shirt ; he does n't smile ."),
        ('The sign says "Go!" (in red).', "the sign says `` go ! '' ( in red ) ."),
        (
            "Two men -- one 3.5 m tall -- can't: they cannot...",
            "two men -- one 3.5 m tall -- ca n't : they can not ...",
        ),
        ("“Gonna” costs $5, 50% off", "“ gon na ” costs $ 5 , 50 % off"),
        ("a dog. a cat", "a dog . a cat"),
    ],
)
def test_a_caption_as_nltk_has_it(caption, tokens):
    assert Vocabulary(SPECIAL_TOKENS, "nltk").tokenize(caption) == tokens.split(" ")


@pytest.mark.parametrize(
    "text",
    [
        "a man in a red hat. a dog sits.",
        "a dog barks! the cat? it sleeps",
        'he says "go." then he runs',
        "(a dog.) a cat",
        "she shouts 'stop!' he stops",
        "the sign says “closed.” a man waits",
        "mr. smith meets dr. no in st. louis",
        "at 5 p.m. in the u.s. army",
        "number 3. the last. 5 men",
        "number 3. 5 men",
        "wait... what",
        "what?... he asks",
        "the end.the start",
        "a hat.) -- b",
        "plan b. the end",
        "a dog.  ",
        "  a dog . a cat",
        "wow!!! a dog",
        "a semi-pro. the mid-jan. game",
        "",
    ],
)
def test_sentences_end_where_punkt_ends_them(text):
    assert list(sentences(text)) == punkt().tokenize(text)


def punkt():
    """Punkt with the abbreviations of data/treebank.py, untrained: all that it has learned are abbreviations."""
    parameters = PunktParameters()
    parameters.abbrev_types = {"mr", "dr", "st", "p.m", "u.s", "jan"}
    return PunktSentenceTokenizer(parameters)


@settings(deadline=None)
@given(captions.map("".join))
def test_sentences_keep_every_character_but_space(text):
    assert "".join("".join(sentences(text)).split()) == "".join(text.split())
    assert word_tokenize(text) == [word for sentence in sentences(text) for word in treebank_words(sentence)]
