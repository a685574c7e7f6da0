"""The fused kernel's block choices on a GPU, against the same equations in PyTorch: `python -m caan.bench.gpu_kernel`.

States of the paper's size are on the device; only scoring is measured, all images with all captions: every choice of
blocks, `torch.compile`, and the plain equations replayed as a CUDA graph. Medians, by the GPU's own clock.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .._files import atomic_file
from ..bundle import state_widths
from ..errors import CaanError, MissingError, needs
from .pair_work import PairWork, pair_work
from .synthetic import PAPER_DIM
from .timing import seconds, sustained_seconds

if TYPE_CHECKING:
    from torch import Tensor

DTYPES = ("bfloat16", "float16", "float32")  # the most important first
# A measurement runs rounds for this long, up to a maximum number.
_SECONDS, _MOST_ROUNDS = 1.0, 7
_WARM_UP = 0.3  # seconds for a GPU's clock to rise
_CHECKED = (40, 200)  # images and captions whose scores are compared with float32's
# Allowed difference: far more than rounding errors, far less than the error of a wrong block.
_AGREES = {"bfloat16": 5e-2, "float16": 1e-2, "float32": 1e-4}
_KERNEL = "kernel"
RIVALS = (_COMPILED, _GRAPHED) = ("torch.compile", "CUDA-graphed eager")

Row = dict[str, Any]
Put = Callable[[str, Row], None]


@dataclass(frozen=True)
class Sizes:
    """Sizes of the workload. `few`: images for the slow cases, all rivals and float32. `sides`: images and captions of
    the rivals' tiles, which write their intermediates; each divides both counts, so that one compiled tile fits all."""

    images: int = 1000
    captions: int = 5000
    regions: int = 36
    words: int = 14
    dim: int = PAPER_DIM
    few: int = 200
    sides: tuple[int, ...] = (50, 100, 200)
    product: int = 8192  # side of the square matrices whose product gives the limit


PAPER = Sizes()
# For a rehearsal in Triton's interpreter.
TINY = Sizes(1, 1, 5, 3, 16, 1, (1,), 64)


class Inputs:
    """States of a size and type on a device, and the ways to score them."""

    def __init__(self, sizes: Sizes, dtype: str, device: str) -> None:
        import torch

        from ..model.caan import CAAN, CaanConfig

        torch.manual_seed(0)
        self.sizes, self.dtype, self.device = sizes, dtype, device
        self.images = sizes.few if dtype == "float32" else sizes.images
        model = CAAN(CaanConfig(1, sizes.dim, 1, sizes.dim, 1)).to(device)
        self.weights = torch.stack([model.scorer.w_v, model.scorer.w_u]).detach().float().contiguous()
        self.scale = model.config.attention_scale
        self.model = model.to(getattr(torch, dtype))
        widths = state_widths({"embed_dim": sizes.dim, "attention_dim": sizes.dim})
        shapes = (("image", self.images, sizes.regions), ("text", sizes.captions, sizes.words))
        states = [
            torch.randn(items, length, widths[side], device=device, dtype=getattr(torch, dtype)) / sizes.dim**0.25
            for side, items, length in shapes
        ]
        lengths = [torch.full((len(state),), state.shape[1], device=device) for state in states]
        self.tile = (states[0], lengths[0], states[1], lengths[1])

    @property
    def work(self) -> PairWork:
        """Work of a pair, in the cheapest order of products."""
        s = self.sizes
        config = {"embed_dim": s.dim, "attention_dim": s.dim}
        return pair_work(config, np.array([s.regions]), np.array([s.words]))

    @property
    def padded_flop(self) -> float:
        """FLOP of a pair as the kernel launches it: R and T padded, and V Uᵀ formed instead of two poolings."""
        from ..runtime.backends.triton.launch import padded_sizes, region_parts

        _, T = padded_sizes(self.sizes.regions, self.sizes.words, self.tile[0].element_size())
        R = sum(region_parts(self.sizes.regions, split=True))
        return R * T * 12 * self.sizes.dim + 2 * T * T * (R + self.sizes.dim)

    @cached_property
    def choices(self) -> list[Any]:
        """Every choice of blocks that the autotuner may try on these inputs."""
        from ..runtime.backends.triton.launch import choices

        return choices(self.tile[0].dtype, self.sizes.regions, self.sizes.words)

    @cached_property
    def exact(self) -> Tensor:
        """Scores of `part(*_CHECKED)` by the plain equations in float32."""
        import torch

        with torch.inference_mode():
            tile = (t.float() if t.is_floating_point() else t for t in self.part(*_CHECKED))
            return deepcopy(self.model).float().score_states(*tile)

    def kernel(self, blocks: Any) -> Tensor:
        """Scores (images, captions) float32 by the kernel."""
        from ..runtime.backends.triton.launch import score_states

        return score_states(*self.tile, self.weights, self.scale, blocks)

    def part(self, images: int, captions: int) -> tuple[Tensor, ...]:
        """The first images and captions."""
        return (*(t[:images] for t in self.tile[:2]), *(t[:captions] for t in self.tile[2:]))

    def in_tiles(self, score: Callable[..., Tensor], side: int) -> Tensor:
        """Scores (few, captions) of `score` called on tiles of side × side."""
        import torch

        images, image_lengths, texts, text_lengths = self.part(self.sizes.few, self.sizes.captions)
        scores = torch.empty(len(images), len(texts), device=images.device, dtype=images.dtype)
        with torch.inference_mode():
            for i in range(0, len(images), side):
                for j in range(0, len(texts), side):
                    rows, columns = slice(i, i + side), slice(j, j + side)
                    tile = (images[rows], image_lengths[rows], texts[columns], text_lengths[columns])
                    scores[rows, columns] = score(*tile)
        return scores

    def compiled(self) -> Callable[..., Tensor]:
        """The equations by `torch.compile`; in a rehearsal by Dynamo alone, without a compiler."""
        import torch

        backend = "inductor" if self.device == "cuda" else "eager"
        return torch.compile(self.model.score_states, backend=backend, dynamic=False)

    def graphed(self, side: int) -> Callable[[], Tensor]:
        """The plain equations on tiles of side × side, each replayed as a CUDA graph; without a GPU run directly."""
        import torch

        if self.device != "cuda":
            return partial(self.in_tiles, self.model.score_states, side)
        fixed = [t.clone() for t in self.part(side, side)]
        stream: Any = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        with torch.inference_mode(), torch.cuda.stream(stream):
            for _ in range(3):  # libraries allocate workspaces now: they can't while a graph is captured
                self.model.score_states(*fixed)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.inference_mode(), torch.cuda.graph(graph):
            result = self.model.score_states(*fixed)

        def replay(*tile: Tensor) -> Tensor:
            for to, source in zip(fixed, tile, strict=True):
                to.copy_(source)
            graph.replay()
            return result

        return partial(self.in_tiles, replay, side)


def gpu_device() -> str:
    """`cuda`. Raises MissingError without a GPU, PyTorch for CUDA, or Triton."""
    with needs("triton", "the kernel's bench"):
        import torch

        from ..runtime.backends.triton import launch  # noqa: F401
    if not torch.cuda.is_available():
        raise MissingError("the kernel's bench needs an NVIDIA GPU and a PyTorch built for CUDA; see caan doctor")
    return "cuda"


def measure(sizes: Sizes, device: str, put: Put, dtypes: Sequence[str] = DTYPES) -> None:
    """Measure everything; `put(name, row)` receives each row at once, and at the end a summary for each type."""
    import torch

    torch.backends.cuda.matmul.allow_tf32 = False
    limits = {dtype: _product_limit(sizes.product, dtype, device) for dtype in dtypes}
    for dtype, limit in limits.items():
        put(f"{dtype} product of {sizes.product}²", {"TFLOP/s": limit / 1e12})
    put("copy in device memory", {"TB/s": _copy_limit(device) / 1e12})
    for dtype, limit in limits.items():
        _measure(Inputs(sizes, dtype, device), limit, put)
        if device == "cuda":
            torch.cuda.empty_cache()


def block_name(blocks: Any) -> str:
    """captions 4, block_d 64, …"""
    return ", ".join(f"{name} {value}" for name, value in blocks._asdict().items())


def _measure(inputs: Inputs, limit: float, put: Put) -> None:
    rows: dict[str, Row] = {}

    def measured(what: str, make: Callable[[], Callable[[], Tensor]], also: Row | None = None) -> None:
        """make: prepares, and returns the call to time."""
        rows[what] = (also or {}) | _timed(inputs, make, limit)
        put(f"{inputs.dtype} {what}", rows[what])

    for index, blocks in enumerate(inputs.choices):
        also = {"dtype": inputs.dtype, "choice": index}
        measured(f"{_KERNEL}, {block_name(blocks)}", partial(partial, inputs.kernel, blocks), also)
    compiled = inputs.compiled()
    for side in inputs.sizes.sides:
        measured(f"{_COMPILED}, tiles of {side}²", partial(partial, inputs.in_tiles, compiled, side))
        measured(f"{_GRAPHED}, tiles of {side}²", partial(inputs.graphed, side))
    put(inputs.dtype, _compared(rows))


def _timed(inputs: Inputs, make: Callable[[], Callable[[], Tensor]], limit: float) -> Row:
    """One row. A choice that does not fit this GPU is not a failure; any other exception fails this row alone."""
    import torch

    from ..runtime.backends.triton.launch import TooLargeError

    try:
        call = make()
        scores = call()  # compiles, and warms up
        taken = _seconds(call, inputs.device)
    except (TooLargeError, torch.OutOfMemoryError) as error:
        return {"note": f"does not fit this GPU ({type(error).__name__})"}
    except Exception as error:
        return {"ok": False, "note": f"{type(error).__name__}: {error}"[:300]}
    images, captions = inputs.exact.shape
    difference = float((scores[:images, :captions].float() - inputs.exact).abs().max())
    median = statistics.median(taken)
    rate = scores.numel() / median
    return {
        "ok": difference <= _AGREES[inputs.dtype],
        "pairs": scores.numel(),
        "seconds": median,
        "fastest": min(taken),
        "rounds": len(taken),
        "pairs/s": rate,
        "TFLOP/s": inputs.work.flop * rate / 1e12,
        "share of limit": inputs.work.flop * rate / limit,
        "padded share": inputs.padded_flop * rate / limit,
        "max |Δ score|": difference,
    }


def _compared(rows: dict[str, Row]) -> Row:
    """The best of each kind."""
    valid = [{"what": what, **row} for what, row in rows.items() if row.get("ok")]
    best = {
        kind: max((row for row in valid if row["what"].startswith(kind)), key=lambda row: row["pairs/s"], default={})
        for kind in (_KERNEL, *RIVALS)
    }
    kernel = best[_KERNEL]
    speed = kernel.get("pairs/s")
    times = {f"÷ {kind}": speed / row["pairs/s"] for kind, row in best.items() if speed and row and kind != _KERNEL}
    return {"best": kernel.get("what", "none"), "seconds": kernel.get("seconds"), "pairs/s": speed, **times}


def _seconds(call: Callable[[], object], device: str) -> list[float]:
    """Seconds of several calls in a row, each timed alone."""
    taken = [_once(call, device)]
    while device == "cuda" and len(taken) < _MOST_ROUNDS and sum(taken) + taken[-1] <= _SECONDS:
        taken.append(_once(call, device))
    return taken


def _once(call: Callable[[], object], device: str) -> float:
    if device != "cuda":
        return seconds(call)
    import torch

    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
    start.record()
    call()
    end.record()
    torch.cuda.synchronize()
    return float(start.elapsed_time(end)) / 1000


def _product_limit(size: int, dtype: str, device: str) -> float:
    """FLOP/s of the product of two square matrices, after the GPU's clock has had time to rise."""
    import torch

    left, right = (torch.randn(size, size, device=device).to(getattr(torch, dtype)) for _ in range(2))
    product = partial(torch.mm, left, right)
    sustained_seconds(partial(_once, product, device), _WARM_UP)
    return 2 * size**3 / statistics.median(_seconds(product, device))


def _copy_limit(device: str) -> float:
    """Bytes read and written per second."""
    import torch

    source = torch.zeros((2 << 30 if device == "cuda" else 1 << 20), dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    _seconds(partial(target.copy_, source), device)
    return 2 * len(source) / statistics.median(_seconds(partial(target.copy_, source), device))


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser("python -m caan.bench.gpu_kernel", description=__doc__)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows there, after each one")
    parser.add_argument("--rehearse", action="store_true", help="tiny sizes on the CPU, with TRITON_INTERPRET=1")
    parser.add_argument(
        "--launch", nargs=2, metavar=("DTYPE", "CHOICE"), help="run only this choice, twice: for a profiler"
    )
    options = parser.parse_args(arguments)
    rows: dict[str, Row] = {}

    def put(name: str, row: Row) -> None:
        rows[name] = row
        print(f"{name}: {row_text(row)}", flush=True)
        if options.json is not None:
            with atomic_file(options.json) as file:
                file.write_text(json.dumps(rows, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")

    try:
        device = "cpu" if options.rehearse else gpu_device()
        sizes = TINY if options.rehearse else PAPER
        if options.launch:
            inputs = Inputs(replace(sizes, images=min(sizes.images, 64)), options.launch[0], device)
            for _ in range(2):
                inputs.kernel(inputs.choices[int(options.launch[1])])
        else:
            measure(sizes, device, put)
    except CaanError as error:
        print(f"Error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def row_text(row: Row) -> str:
    """seconds 0.25, rounds 4, …"""
    return ", ".join(
        f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}" for name, value in row.items()
    )


if __name__ == "__main__":
    sys.exit(main())
