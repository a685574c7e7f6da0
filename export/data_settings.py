"""What an export assumed of its data set: which captions belong to an image, and how many words the model knows."""

from __future__ import annotations

from ..data.scan import ScanSplit
from ..data.vocabulary import Vocabulary
from ..model.settings import Setting


def data_settings(vocabulary: Vocabulary, data: ScanSplit) -> list[Setting]:
    """The layout that was read, and the share of words that are not in the vocabulary."""
    name = f"{data.folder.resolve().name} {data.split}"
    words = unknown = 0
    for caption in data.captions:
        words += len(vocabulary.words_of(caption))
        unknown += len(vocabulary.unknown_words(caption))
    share = f"{100 * unknown / max(words, 1):.2f} %"
    return [
        Setting("data set", data.layout, "data", name),
        Setting("unknown words", share, "data", f"{unknown:,} of {words:,} in {name}"),
    ]
