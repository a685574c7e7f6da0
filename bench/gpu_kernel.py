"""The fused kernel against `torch.compile` of the same equations, on a GPU: `python -m caan.bench.gpu_kernel`.

States of the paper's size lie on the device; what is measured is scoring alone, all images with all captions.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from tabulate import tabulate

from ..bundle import state_widths
from ..errors import CaanError, MissingError, needs
from .synthetic import PAPER_DIM
from .timing import seconds

IMAGES, CAPTIONS, REGIONS, WORDS = 1000, 5000, 36, 14
_DTYPES = ("float32", "float16", "bfloat16")
_SIDES = (16, 32, 64, 128)  # images and captions in one call of the compiled equations, which write what they compute
_ROUNDS = 5
_TILE_ROUNDS = 3


@dataclass(frozen=True)
class KernelSpeed:
    """Best seconds for all pairs, with each type of number; the largest difference between their scores."""

    dtype: str
    kernel: float
    compiled: float | None  # None where no tile fits the device's memory
    side: int | None  # of the compiled equations' best tile
    difference: float | None


def measure_kernel(progress: Callable[[str], None], dim: int = PAPER_DIM) -> list[KernelSpeed]:
    """Score IMAGES × CAPTIONS of R = 36 and T = 14. Raises MissingError without a GPU, PyTorch for CUDA, or Triton."""
    with needs("triton", "the kernel's bench"):
        import torch

        from ..runtime.triton import launch  # noqa: F401
    if not torch.cuda.is_available():
        raise MissingError("the kernel's bench needs an NVIDIA GPU and a PyTorch built for CUDA; see caan doctor")
    torch.backends.cuda.matmul.allow_tf32 = False
    return [_measure(dtype, dim, progress) for dtype in _DTYPES]


def _measure(dtype: str, dim: int, progress: Callable[[str], None]) -> KernelSpeed:
    import torch

    from ..model.caan import CAAN, CaanConfig
    from ..runtime.triton.launch import score_states

    torch.manual_seed(0)
    model = CAAN(CaanConfig(1, dim, 1, dim, 1)).to("cuda", getattr(torch, dtype))
    widths = state_widths({"embed_dim": dim, "attention_dim": dim})
    states = [
        torch.randn(items, length, widths[side], device="cuda", dtype=getattr(torch, dtype)) / dim**0.5
        for side, items, length in (("image", IMAGES, REGIONS), ("text", CAPTIONS, WORDS))
    ]
    lengths = [torch.full((len(state),), state.shape[1], device="cuda") for state in states]
    weights = torch.stack([model.scorer.w_v, model.scorer.w_u]).detach().float()
    tile = (states[0], lengths[0], states[1], lengths[1])
    progress(f"{dtype}: the kernel")
    kernel = partial(score_states, *tile, weights, model.config.attention_scale)
    scores = kernel()
    own = _best_of(_ROUNDS, kernel)
    progress(f"{dtype}: the compiled equations")
    side = _best_side(model, tile, progress)
    if side is None:
        return KernelSpeed(dtype, own, None, None, None)
    compiled = partial(_score_compiled, model, tile, side)
    difference = float((compiled().float() - scores).abs().max())
    return KernelSpeed(dtype, own, _best_of(_ROUNDS, compiled), side, difference)


def _best_side(model: Any, tile: tuple[Any, ...], progress: Callable[[str], None]) -> int | None:
    """The fastest of _SIDES, on some of the images."""
    import torch

    some = (tile[0][:128], tile[1][:128], tile[2], tile[3])
    took: dict[int, float] = {}
    for side in _SIDES:
        try:
            took[side] = _best_of(_TILE_ROUNDS, partial(_score_compiled, model, some, side))
        except torch.OutOfMemoryError:
            progress(f"tiles of {side} × {side} do not fit the GPU's memory")
    return min(took, key=lambda side: took[side]) if took else None


def _score_compiled(model: Any, tile: tuple[Any, ...], side: int) -> Any:
    import torch

    score: Callable[..., Any] = torch.compile(model.score_states)
    images, image_lengths, texts, text_lengths = tile
    scores = torch.empty(len(images), len(texts), device=images.device, dtype=images.dtype)
    with torch.inference_mode():
        for i in range(0, len(images), side):
            for j in range(0, len(texts), side):
                rows, columns = slice(i, i + side), slice(j, j + side)
                scores[rows, columns] = score(images[rows], image_lengths[rows], texts[columns], text_lengths[columns])
    return scores


def _best_of(rounds: int, call: Callable[[], object]) -> float:
    """Seconds until the GPU is done, after one call to warm up."""
    import torch

    def finish() -> None:
        call()
        torch.cuda.synchronize()

    finish()
    return min(seconds(finish) for _ in range(rounds))


def main() -> int:
    try:
        found = measure_kernel(lambda message: print(message, file=sys.stderr))
    except CaanError as error:
        print(f"Error: {error}", file=sys.stderr)
        return error.exit_code
    import torch

    rows = [
        [s.dtype, f"{s.kernel:.3f}", "–" if s.compiled is None else f"{s.compiled:.3f} ({s.side} × {s.side})",
         "–" if s.compiled is None else f"{s.compiled / s.kernel:.1f}",
         "–" if s.difference is None else f"{s.difference:.1e}"]
        for s in found
    ]  # fmt: skip
    headers = ["", "kernel, s", "torch.compile, s (tile)", "times as fast", "max |Δ score|"]
    print(f"{IMAGES:,} images × {CAPTIONS:,} captions at D = d = {PAPER_DIM}, {torch.cuda.get_device_name()}\n")
    print(tabulate(rows, headers))
    return 0


if __name__ == "__main__":
    sys.exit(main())
