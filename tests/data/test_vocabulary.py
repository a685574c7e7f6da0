"""Vocabularies in their three forms, and captions to ids."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from caan.data.vocabulary import SPECIAL_TOKENS, TOKENIZERS, Vocabulary
from caan.errors import DataError

from ..conftest import SHARED

WORDS = {**SPECIAL_TOKENS, "dog": 4, "snow": 5, "café": 9}

tokenizers = st.sampled_from(list(TOKENIZERS))
# Text from a shell or a file: anything but lone surrogates
texts = st.text(st.characters(exclude_categories=["Cs"]))


def write(path, content):
    path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("content", "tokenizer"),
    [
        (
            {"word2idx": WORDS, "idx2word": {str(number): word for word, number in WORDS.items()}, "idx": 6},
            "whitespace",
        ),
        ({"format": "caan-vocabulary", "version": 1, "tokenizer": "word-punct", "words": WORDS}, "word-punct"),
        (WORDS, "whitespace"),
    ],
    ids=["SCAN's", "ours", "plain"],
)
def test_each_form_is_read(tmp_path, content, tokenizer):
    path = write(tmp_path / "vocab.json", content)
    assert Vocabulary.load(path) == Vocabulary(WORDS, tokenizer)
    for given_tokenizer in TOKENIZERS:
        assert Vocabulary.load(path, given_tokenizer).tokenizer == given_tokenizer


@given(words=st.sets(texts, max_size=9), tokenizer=tokenizers)
def test_what_is_saved_is_loaded(tmp_path, words, tokenizer):
    vocabulary = Vocabulary(
        {**SPECIAL_TOKENS, **{w: n for n, w in enumerate(words - set(SPECIAL_TOKENS), 4)}}, tokenizer
    )
    vocabulary.save(tmp_path / "vocab.json")
    assert Vocabulary.load(tmp_path / "vocab.json") == vocabulary


def test_a_caption_becomes_ids_between_start_and_end():
    vocabulary = Vocabulary(WORDS)
    assert vocabulary.encode("dog SNOW") == [1, 4, 5, 2]
    assert vocabulary.encode(["dog", "snow"]) == [1, 4, 5, 2]
    assert vocabulary.encode("zebra dog") == [1, 3, 4, 2]


@pytest.mark.parametrize("content", ["plain", "SCAN's", "ours"])
def test_special_words_are_found_by_name(tmp_path, content):
    words = {"<pad>": 7, "<unk>": 0, "<start>": 2, "<end>": 30, "dog": 1, "snow": 3}
    forms = {"plain": words, "SCAN's": {"word2idx": words}, "ours": Vocabulary(words).as_dict()}
    vocabulary = Vocabulary.load(write(tmp_path / "vocab.json", forms[content]))
    assert vocabulary.encode("dog zebra snow") == [2, 1, 0, 3, 30]
    assert vocabulary.unknown == 0
    assert len(vocabulary) == 31
    assert vocabulary.all_unknown(vocabulary.encode("zebra snake"))
    assert not vocabulary.all_unknown(vocabulary.encode("zebra snow"))
    assert vocabulary.unknown_words("zebra snow") == ["zebra"]


@pytest.mark.parametrize(
    ("name", "ids", "size"),
    [
        ("f30k_precomp_vocab.json", [1, 3, 3, 2], 8481),
        ("f30k_precomp_specials_0123.json", [2, 1, 1, 3], 8347),
    ],
)
def test_vocabularies_of_the_field(name, ids, size):
    path = SHARED / "field" / "vocab" / name
    if not path.is_file():
        pytest.skip("needs the field's vocabularies, which are for tests only and not part of the project")
    vocabulary = Vocabulary.load(path, default="nltk")
    words = json.loads(path.read_text())["word2idx"]
    assert vocabulary == Vocabulary(words, "nltk")
    assert len(vocabulary) == size
    assert vocabulary.encode("xyzzy xyzzy") == ids
    assert vocabulary.encode("A boy's hat.")[1:-1] == [words[word] for word in ("a", "boy", "'s", "hat", ".")]


def test_the_files_tokenizer_goes_before_the_default(tmp_path):
    path = write(tmp_path / "vocab.json", Vocabulary(WORDS, "word-punct").as_dict())
    assert Vocabulary.load(path, default="nltk").tokenizer == "word-punct"
    assert Vocabulary.load(path, "whitespace", "nltk").tokenizer == "whitespace"
    assert Vocabulary.load(write(path, WORDS), default="nltk").tokenizer == "nltk"


def test_tokens_are_used_unchanged():
    assert Vocabulary(WORDS).encode(["Dog", "dog"]) == [1, 3, 4, 2]


def test_the_whitespace_tokenizer_keeps_punctuation_on_its_word():
    assert Vocabulary(WORDS).tokenize("A dog, in\tthe  snow.") == ["a", "dog,", "in", "the", "snow."]


def test_the_word_punct_tokenizer_splits_as_nltks_does():
    tokens = Vocabulary(WORDS, "word-punct").tokenize("A dog's ball, in the snow... 3.5 m!")
    assert tokens == ["a", "dog", "'", "s", "ball", ",", "in", "the", "snow", "...", "3", ".", "5", "m", "!"]


@pytest.mark.parametrize("tokenizer", TOKENIZERS)
@pytest.mark.parametrize(
    ("caption", "tokens"),
    [
        ("Ein HUND läuft", ["ein", "hund", "läuft"]),
        ("собака\u00a0бежит", ["собака", "бежит"]),
        ("雪\u3000犬", ["雪", "犬"]),
        ("CAFÉ dog", ["café", "dog"]),
    ],
)
def test_words_of_any_script(tokenizer, caption, tokens):
    assert Vocabulary(WORDS, tokenizer).tokenize(caption) == tokens


@given(caption=texts, tokenizer=tokenizers)
def test_any_text_but_blank_is_encoded_within_the_vocabulary(caption, tokenizer):
    vocabulary = Vocabulary(WORDS, tokenizer)
    if not caption.strip():
        with pytest.raises(DataError, match="the caption is empty"):
            vocabulary.encode(caption)
        return
    ids = vocabulary.encode(caption)
    assert len(ids) == len(vocabulary.tokenize(caption)) + 2 >= 3
    assert (ids[0], ids[-1]) == (1, 2)
    assert all(0 <= number < len(vocabulary) for number in ids)


@given(tokens=st.lists(st.text(), min_size=1))
def test_any_tokens_are_encoded_within_the_vocabulary(tokens):
    ids = Vocabulary(WORDS).encode(tokens)
    assert len(ids) == len(tokens) + 2
    assert set(ids) <= set(WORDS.values())


@given(caption=texts, tokenizer=tokenizers)
def test_the_case_of_a_caption_does_not_matter(caption, tokenizer):
    vocabulary = Vocabulary(WORDS, tokenizer)
    assert vocabulary.tokenize(caption) == vocabulary.tokenize(caption.lower())


@pytest.mark.parametrize("caption", ["", " \n", []])
def test_a_caption_without_a_word_is_refused(caption):
    with pytest.raises(DataError, match="the caption is empty"):
        Vocabulary(WORDS).encode(caption)


def test_bytes_that_are_not_utf8_are_refused():
    with pytest.raises(DataError, match=r"'caf\\udce9' is not UTF-8 text"):
        Vocabulary(WORDS).encode("caf\udce9")


def test_its_length_is_the_rows_an_embedding_needs():
    assert len(Vocabulary(WORDS)) == 10


def test_building_keeps_frequent_words_in_alphabetical_order():
    captions = ["a dog", "A cat", "a Dog runs", "<unk> <unk>"]
    vocabulary = Vocabulary.build(captions, min_count=2)
    assert vocabulary.words == {**SPECIAL_TOKENS, "a": 4, "dog": 5}
    assert vocabulary.tokenizer == "whitespace"


def test_building_counts_the_tokenizers_words():
    assert set(Vocabulary.build(["a dog.", "the dog!"], "word-punct", min_count=2).words) == {*SPECIAL_TOKENS, "dog"}


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ({}, "lacks <pad>; <pad>, <start>, <end> and <unk> need the ids that the model was trained with"),
        ({"<pad>": 0, "<unk>": 1, "<start>": 2, "<END>": 3}, "lacks <end>; "),
        ({**SPECIAL_TOKENS, "<unk>": None}, "not an id"),
        ({**SPECIAL_TOKENS, "<unk>": 2}, "two words the same id"),
        ({**SPECIAL_TOKENS, "dog": 3}, "two words the same id"),
        ({**SPECIAL_TOKENS, "dog": -1}, "not an id"),
        ({**SPECIAL_TOKENS, "dog": "4"}, "not an id"),
        ({**SPECIAL_TOKENS, "dog": 4.0}, "not an id"),
    ],
)
def test_words_that_are_not_a_vocabulary(tmp_path, words, says):
    with pytest.raises(DataError, match=says):
        Vocabulary(words)
    with pytest.raises(DataError, match=rf"vocab\.json: .*{says}"):
        Vocabulary.load(write(tmp_path / "vocab.json", {"word2idx": words}))


@pytest.mark.parametrize("tokenizer", ["bert", "", None, 5])
def test_an_unknown_tokenizer_names_the_known_ones(tokenizer):
    with pytest.raises(DataError, match="known: whitespace, word-punct, nltk"):
        Vocabulary(WORDS, tokenizer)
    with pytest.raises(DataError, match="known: whitespace, word-punct, nltk"):
        Vocabulary.build(["a"], tokenizer)


@pytest.mark.parametrize("content", ["", "{", "[1]", "null", '"x"', "5"])
def test_a_file_that_is_not_a_vocabulary(tmp_path, content):
    (tmp_path / "vocab.json").write_text(content)
    with pytest.raises(DataError, match=r"vocab\.json is not a vocabulary"):
        Vocabulary.load(tmp_path / "vocab.json")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(DataError, match=r"can't read the vocabulary .*vocab\.json: No such file"):
        Vocabulary.load(tmp_path / "vocab.json")
