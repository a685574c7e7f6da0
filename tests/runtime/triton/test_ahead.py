"""The kernel as an engine gets it: the same scores, and PTX that TensorRT can launch."""

import re

import pytest
import torch
import triton.language as tl

# A machine that has little but a GPU may lack it (make gpu-record).
pytest.importorskip("hypothesis")
from hypothesis import example, given, settings
from hypothesis import strategies as st

from caan.runtime.triton.ahead import engine_kernel
from caan.runtime.triton.launch import region_parts
from tests.runtime.triton.test_kernel import BLOCKS, GOLDEN, TOLERANCE, World, difference, sizes

pytestmark = pytest.mark.filterwarnings("ignore:overflow encountered in exp:RuntimeWarning")

DTYPES = {torch.float32: tl.float32, torch.float16: tl.float16}
# What a launch of TensorRT's passes: five inputs, four sizes, one output; then the two that Triton adds.
PARAMETERS = ["u64"] * 5 + ["u32"] * 4 + ["u64"] + ["u64"] * 2
NEWEST = (13, 0)


def score(world, device, widths, regions=1):
    """Scores by `engine_kernel` for widths [(words, blocks), …], made for at least so many regions."""
    (n, R, _), (m, T, columns), d = world.image_states.shape, world.text_states.shape, world.weights.shape[1]
    dtype = world.image_states.dtype
    tensors = (world.image_states, world.image_lengths, world.text_states, world.text_lengths, world.weights)
    scores = torch.full((n, m), float("nan"), device=device)
    too_few = [0, *(words for words, _ in widths)]
    constants = {
        "D": columns - 3 * d,
        "d": d,
        "SCALE": world.scale,
        **dict(zip(("R_HIGH", "R_LOW"), region_parts(max(R, regions), True), strict=True)),
        "WIDTHS": tuple(
            (few, words, *blocks[:3], blocks.stages) for few, (words, blocks) in zip(too_few, widths, strict=False)
        ),
        "DTYPE": DTYPES[dtype],
    }
    captions = next(blocks.captions for words, blocks in widths if words >= T)
    grid = (n * -(-m // captions),)
    engine_kernel[grid](*(t.contiguous().to(device) for t in tensors), n, m, R, T, scores, **constants)
    return scores.cpu()


@pytest.mark.parametrize("blocks", BLOCKS, ids=str)
@pytest.mark.parametrize("name", ["tiny", "tiny_scaled", "unnormalized", "medium"])
def test_golden_cases(device, name, blocks):
    world, scores = World.golden(GOLDEN / f"{name}.npz")
    assert difference(score(world, device, [(64, blocks)]), scores) <= 2e-6


@settings(max_examples=15)
@given(st.integers(0, 2**31), sizes, st.permutations(BLOCKS), st.integers(1, 80), st.sampled_from(list(DTYPES)))
@example(0, (1, 1, 1, 1, 1, 1), BLOCKS, 40, torch.float32)
@example(0, (1, 3, 5, 16, 8, 8), BLOCKS, 1, torch.float32)
@example(0, (1, 3, 5, 17, 8, 8), BLOCKS, 1, torch.float32)
@example(0, (1, 3, 5, 33, 8, 8), BLOCKS, 1, torch.float32)
@example(0, (2, 36, 3, 14, 64, 64), BLOCKS, 1, torch.float16)
def test_captions_of_every_width_score_the_same(device, seed, shape, blocks, regions, dtype):
    world = World(seed, *shape, dtype=dtype)
    widths = list(zip((16, 32, 64), blocks, strict=True))
    assert difference(score(world, device, widths, regions), world.expected()) <= TOLERANCE[dtype]


@pytest.mark.parametrize(
    ("precision", "words", "widths"), [("fp32", [14], [16]), ("fp16", [14, 9], [16]), ("fp16", [30, 14], [16, 32])]
)
@pytest.mark.parametrize(("capability", "target"), [((8, 0), "sm_80"), ((9, 0), "sm_90a")])
def test_the_ptx_takes_what_tensorrt_passes(compile_ahead, capability, target, precision, words, widths):
    kernels = compile_ahead((64, 48), 4.0, 36, words, precision, capability, NEWEST)
    for kernel in kernels:
        entry, parameters, body = split(kernel["ptx"])
        assert entry == kernel["name"] and f".target {target}" in kernel["ptx"]
        assert parameters == PARAMETERS
        # TensorRT passes null for parameters that it was not told of.
        read = {int(number) for number in re.findall(rf"\[{entry}_param_(\d+)\]", body)}
        assert read == set(range(10))
        assert f".reqntid {kernel['threads']}" in body
        assert [width for width, _ in kernel["widths"]] == widths
        assert ("mma.sync" in body or "wgmma" in body) == (precision == "fp16")
        assert 0 < kernel["shared"] <= 48 << 10 and version(kernel) <= (9, 0)
    assert len({kernel["ptx"] for kernel in kernels}) == len(kernels) > 1


def test_the_ptx_is_no_newer_than_the_driver(compile_ahead):
    kernels = compile_ahead((16, 16), 1.0, 5, [5], "fp16", (8, 0), (12, 4))
    assert {version(kernel) for kernel in kernels} == {(8, 4)}


def test_longer_items_may_ask_for_more_shared_memory(compile_ahead):
    kernels = compile_ahead((1024, 1024), 1.0, 100, [128], "fp16", (9, 0), NEWEST)
    assert kernels and all(48 << 10 < kernel["shared"] <= 227 << 10 for kernel in kernels)


@pytest.mark.parametrize(
    ("regions", "words", "precision", "capability"),
    [
        (512, 33, "fp16", (9, 0)),  # registers
    ],
)
def test_what_does_not_fit_a_gpu_is_refused(compile_ahead, regions, words, precision, capability):
    assert compile_ahead((1024, 1024), 1.0, regions, [words], precision, capability, NEWEST) == "too large"


def version(kernel):
    """Of the kernel's PTX; CUDA 13.0 knows 9.0, CUDA 12.4 knows 8.4."""
    return tuple(map(int, re.search(r"\.version (\d+)\.(\d+)", kernel["ptx"]).groups()))


def split(ptx):
    """(name, types of parameters, the rest) of the one entry."""
    (found,) = re.finditer(r"\.visible \.entry (\w+)\(\n(.*?)\n\)\n", ptx, re.DOTALL)
    return found[1], re.findall(r"\.param \.(\w+)", found[2]), ptx[found.end() :]
