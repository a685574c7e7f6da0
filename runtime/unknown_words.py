"""Warnings about words outside the vocabulary: each makes results worse, so callers are warned, up to a limit."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from threading import Lock

from .._text import visible
from ..errors import UnknownWordWarning

MOST = 10  # captions named in warnings
_MOST_WORDS, _MOST_LETTERS = 10, 60  # words named per caption, and letters per word


class UnknownWords:
    """Collects captions' unknown words and warns about them: ten captions by name, the others as a count.

    lasting: for a server. It names ten captions in total, says once that there are more, then stays silent.
    Thread-safe.
    """

    def __init__(self, *, lasting: bool = False) -> None:
        self._lasting = lasting
        self._lock = Lock()
        self._named = 0
        self._more = 0
        self._is_quiet = False
        self._messages: list[str] = []

    def add(self, where: str, words: Sequence[str]) -> None:
        """Add a caption's unknown words. where: the message's prefix, such as "caption 3: "."""
        with self._lock:
            if self._named == MOST:
                self._more += 1
                return
            self._named += 1
            different = list(dict.fromkeys(words))
            shown = ", ".join(f"'{visible(word[:_MOST_LETTERS])}'" for word in different[:_MOST_WORDS])
            more = ", …" if len(different) > _MOST_WORDS else ""
            self._messages.append(f"{where}the vocabulary lacks {shown}{more}, counted as unknown")

    def warn(self, stacklevel: int) -> None:
        """Issue warnings for words added since the last call."""
        with self._lock:
            messages, self._messages = self._messages, []
            if self._more and not self._is_quiet:
                number = "" if self._lasting else f"{self._more} "
                which = "; further ones are not named" if self._lasting else ""
                messages.append(f"… and {number}more captions with unknown words{which}")
                self._is_quiet = True
            self._more = 0
        for message in messages:
            warnings.warn(message, UnknownWordWarning, stacklevel=stacklevel)
