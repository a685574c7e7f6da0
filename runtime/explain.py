"""The scorer's attention and weights for one image and one caption."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError
from .backends.contract import Backend, Tile
from .encoding import encode_images
from .inputs import check_features, known_caption, shortened, tokenize
from .lists import Caption, caption_of


@dataclass(frozen=True)
class Explanation:
    """How the score of an image with R regions and a caption of T words was computed (equations: docs/model.md).

    All arrays are float32. `words` are the caption's original words, with `<start>` and `<end>`; the model treats every
    unknown word as `<unk>`.
    """

    score: float
    words: list[str]  # T
    known: list[bool]  # T: whether the word is in the model's vocabulary
    H: NDArray[np.float32]  # (R, T) affinity between region and word, -1 to 1
    Hu: NDArray[np.float32]  # (R, T) a region's attention over the words; rows sum to 1
    Hv: NDArray[np.float32]  # (R, T) a word's attention over the regions; columns sum to 1
    av: NDArray[np.float32]  # (R,) weight of each region in the score; sums to 1
    au: NDArray[np.float32]  # (T,) weight of each word in the score; sums to 1

    def as_dict(self) -> dict[str, Any]:
        """Plain lists and numbers, for JSON."""
        arrays = {name: getattr(self, name).tolist() for name in ("H", "Hu", "Hv", "av", "au")}
        return {"score": self.score, "words": self.words, "known": self.known, **arrays}


def explain(backend: Backend, features: NDArray[np.floating], caption: Caption) -> Explanation:
    """As `Retriever.explain`."""
    if not isinstance(features, np.ndarray) or features.ndim != 2:
        shape = getattr(features, "shape", type(features).__name__)
        raise DataError(f"explain takes one image's features (regions, features), not {shape}; pick one: features[0]")
    check_features(features[None], backend.model.config["region_dim"], backend.model.limits["regions"])
    caption = caption_of(caption, "the caption")
    vocabulary = backend.model.vocabulary
    words = known_caption(caption, vocabulary)
    # The result itself marks unknown words, so no warning is needed.
    quiet = shortened(words, len(words.ids), vocabulary)
    (tokens,), text_lengths = tokenize([quiet], vocabulary, backend.model.limits["words"])
    ((_, image_states),) = encode_images(backend, features[None])
    if not np.isfinite(image_states).all():
        what = "its features hold NaN, infinity or huge values; extract them again"
        raise DataError(f"the image can't be encoded: {what}")
    text_states = backend.encode_captions(np.array([tokens], np.int64), text_lengths)
    tile = Tile(image_states, np.array([len(features)], np.int64), text_states, text_lengths)
    arrays = {name: values[0, 0] for name, values in backend.explain(tile).items()}
    if not np.isfinite(arrays["scores"]):
        raise DataError("the caption can't be explained: its score is NaN or infinite; see caan inspect")
    return Explanation(
        score=float(arrays.pop("scores")),
        words=_words(words, len(tokens)),
        known=[number != vocabulary.unknown for number in tokens],
        **arrays,
    )


def _words(words: Sequence[str], length: int) -> list[str]:
    """The caption's words, one per token, truncated as `tokenize` truncates them."""
    return ["<start>", *words[: length - 2], "<end>"]
