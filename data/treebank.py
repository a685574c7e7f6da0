"""NLTK's `word_tokenize` afresh: Treebank words within sentences, as most code of the SCAN family tokenizes captions.

The words follow the Penn Treebank's conventions (Marcus et al., 1993; Robert MacIntyre's sed script, 1995) with the
additions of NLTK's NLTKWordTokenizer, which they equal. The sentences follow what Punkt decides on lower-case text
(Kiss and Strunk, 2006), with a short list of abbreviations in place of its trained model.

cpp/src/treebank.cpp does the same.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

# What stands apart from a word even without space. A sentence may end before it, or before white space and more text.
_STOP = re.compile(r"[.?!](?=([)\";}\]*:@'({\[‘’“”«»?!])|\s+(\S))")
_SPACE = re.compile(r"[ \t-\r]")
_WORD_BREAK = re.compile(r"[\s)\";}\]*:@({\[]|--")
# Quotes and brackets that still belong to the sentence that ends before them, and the space around.
_CLOSERS = re.compile(r"(\s*(?:[\"')\]}‘’“”«»]+?(?=\s|--|\Z))?)\s*")
_LETTER = re.compile(r"[^\W\d_]")
_NUMBER = re.compile(r"\.?\d[\d,.-]*")
_ABBREVIATION = re.compile(  # first: u.s, a.m
    r"[^\W\d_](?:\.[^\W\d_])+|adm|ave|bros|co|col|corp|dr|ft|gen|gov|inc|jr|lt|ltd|maj|messrs|mr|mrs|ms|prof|rep|sen"
    r"|sgt|sr|st|vs|jan|feb|aug|sept|oct|nov|dec"
)

# Each rule of the words, in their order: what is found, and what takes its place. Space separates words in the end.
_RULES = [
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r'\A"', " `` "),
        (r"[«“‘„]|``?", r" \g<0> "),
        (r"([ (\[{<])(?:\"|'')", r"\1 `` "),
        # An apostrophe before a word, except where it begins a contraction's second part.
        (r"(?<!\w)'(?!(?:re|ve|ll|[mtsſdn])\b)(?=\w)", "' "),
        # The last period, behind it only quotes and brackets. Other periods belong to their words.
        (r"([^.])\.([\])}>\"'»”’ ]*+)\s*\Z", r"\1 . \2 "),
        (r"([:,])(\D)", r" \1 \2"),
        (r"[:,]\Z", r" \g<0> "),
        (r"\.{2,}|[;@#$%&?!\u2012-\u2015]", r" \g<0> "),
        (r"([^'])' ", r"\1 ' "),
        (r"[*\[\](){}<>]|--", r" \g<0> "),
        (r"\A|\Z", " "),
        (r"[»”’]", r" \g<0> "),
        (r"''|\"", " '' "),
        (r"\s+", " "),
        (r"([^' ])('[smd]?) ", r"\1 \2 "),
        (r"([^' ])('ll|'re|'ve|n't) ", r"\1 \2 "),
        # ı and ſ: NLTK ignores case, and to Python these small letters are I and S too.
        (r"\b(can)(not)\b", r" \1 \2 "),
        (r"\b(d)('ye)\b", r" \1 \2 "),
        (r"\b(g[iı]m)(me)\b", r" \1 \2 "),
        (r"\b(gon)(na)\b", r" \1 \2 "),
        (r"\b(got)(ta)\b", r" \1 \2 "),
        (r"\b(lem)(me)\b", r" \1 \2 "),
        (r"\b(more)('n)\b", r" \1 \2 "),
        (r"\b(wan)(na) ", r" \1 \2 "),
        (r" ('t)([iı][sſ])\b", r" \1 \2 "),
        (r" ('t)(wa[sſ])\b", r" \1 \2 "),
    )
]


def word_tokenize(text: str) -> list[str]:
    """The words of a text in lower case."""
    return [word for sentence in sentences(text) for word in treebank_words(sentence)]


def treebank_words(sentence: str) -> list[str]:
    """The words of one sentence in lower case: those of NLTK's NLTKWordTokenizer."""
    for pattern, replacement in _RULES:
        sentence = pattern.sub(replacement, sentence)
    return sentence.split()


def sentences(text: str) -> Iterator[str]:
    """The sentences of a text in lower case, without the white space between them."""
    text = text.rstrip()
    start = 0
    for end in _ends(text):
        closers = _CLOSERS.match(text, end)
        assert closers is not None  # it matches nothing too
        yield text[start : closers.end(1)].rstrip()
        start = closers.end()
    if start < len(text):
        yield text[start:]


def _ends(text: str) -> Iterator[int]:
    """Where sentences end, at most once in text without white space: behind its last stop if any stop ends one."""
    last, is_end = 0, False
    for stop in _STOP.finditer(text):
        *before, part = _SPACE.split(text[last : stop.start()])
        if before:
            if is_end:
                yield last
            is_end = False
        last = stop.end()
        is_end = is_end or stop[0] != "." or _is_end(part, stop[1] or stop[2])
    if is_end:
        yield last


def _is_end(part: str, following: str) -> bool:
    """Whether a period ends a sentence. part: the text before it; following: the first character behind it."""
    word = _WORD_BREAK.split(part)[-1].lstrip("`&#,-")
    name = word.rpartition("-")[2]
    if word.endswith("."):  # an ellipsis
        return word.rstrip(".").endswith(("?", "!"))
    if _ABBREVIATION.fullmatch(name):
        return False
    is_vague = _LETTER.fullmatch(word) or _NUMBER.fullmatch(word)
    return not (is_vague and (_LETTER.match(following) or following in ";:,!?"))
