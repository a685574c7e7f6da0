"""An untrained CAAN of the paper's size, for measuring speed without a trained model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from .._files import temporary_folder
from .._machine import has_nvidia_driver
from ..errors import CaanError, needs

# Bottom-up attention features; 1,000 words, since speed does not depend on the vocabulary.
_REGION_DIM, _WORD_DIM, _WORDS = 2048, 300, 1000
PAPER_DIM = 1024  # the paper's joint dimension


@contextmanager
def synthetic_bundle(progress: Callable[[str], None], dim: int = PAPER_DIM) -> Iterator[Path]:
    """Yield a bundle exported from random weights at R = 36, D = d = `dim`, with its checkpoint beside it."""
    with needs("export", "--synthetic"):
        import torch

        from ..export.bundle_from_checkpoint import export_checkpoint
        from ..model.caan import CAAN, CaanConfig
        from ..model.checkpoint import load_checkpoint, save_checkpoint
    from ..data.vocabulary import SPECIAL_TOKENS, Vocabulary

    torch.manual_seed(0)
    words = [*SPECIAL_TOKENS, *(f"word{n}" for n in range(_WORDS))]
    config = CaanConfig(_REGION_DIM, dim, _WORD_DIM, dim, len(words))
    with temporary_folder("synthetic") as folder:
        checkpoint, bundle = folder / "model.pt", folder / "model.caan"
        save_checkpoint(checkpoint, CAAN(config), Vocabulary({word: n for n, word in enumerate(words)}))
        export_checkpoint(load_checkpoint(checkpoint), checkpoint, bundle, progress=progress)
        if has_nvidia_driver():
            _add_engine(bundle, progress)
        yield bundle


def _add_engine(bundle: Path, progress: Callable[[str], None]) -> None:
    """FP16 plans, ungated, since random weights retrieve nothing. Skipped with the reason if they can't be built."""
    from ..bundle import open_bundle
    from ..export.engine_from_bundle import EngineJob, build_engine
    from ..export.plan_from_graph import BuildOptions
    from ..export.profiles import Statistics, default_profiles
    from ..export.targets import open_target

    opened = open_bundle(bundle)
    config = opened.config
    try:
        profiles = default_profiles(config, opened.manifest["limits"], Statistics.assumed(config))
        build_engine(bundle, EngineJob("fp16", open_target(), profiles, BuildOptions()), progress=progress)
    except CaanError as error:
        progress(f"no engine is measured: {error}")
