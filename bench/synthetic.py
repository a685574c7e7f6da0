"""An untrained CAAN of the paper's size, for measuring speed where no trained one of that size is at hand."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import needs

# Bottom-up attention features and the paper's joint dimension; 1,000 words, since speed does not depend on more.
_REGION_DIM, _EMBED_DIM, _WORD_DIM, _WORDS = 2048, 1024, 300, 1000


@contextmanager
def synthetic_bundle(progress: Callable[[str], None]) -> Iterator[Path]:
    """Yield a bundle exported from random weights at R = 36, D = d = 1024, with its checkpoint beside it."""
    with needs("export", "--synthetic"):
        import torch

        from ..export.to_bundle import export_checkpoint
        from ..model.caan import CAAN, CaanConfig
        from ..model.checkpoint import load_checkpoint, save_checkpoint
    from ..data.vocabulary import SPECIAL_TOKENS, Vocabulary

    torch.manual_seed(0)
    words = [*SPECIAL_TOKENS, *(f"word{n}" for n in range(_WORDS))]
    config = CaanConfig(_REGION_DIM, _EMBED_DIM, _WORD_DIM, _EMBED_DIM, len(words))
    with tempfile.TemporaryDirectory(prefix="caan-synthetic-") as folder:
        checkpoint, bundle = Path(folder) / "model.pt", Path(folder) / "model.caan"
        save_checkpoint(checkpoint, CAAN(config), Vocabulary({word: n for n, word in enumerate(words)}))
        export_checkpoint(load_checkpoint(checkpoint), checkpoint, bundle, progress=progress)
        yield bundle
