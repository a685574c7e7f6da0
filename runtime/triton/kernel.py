"""The scorer as one Triton kernel: states in, scores out, nothing in between in the GPU's memory.

One program scores one image with a few captions (docs/model.md has the equations and what a state is). The affinity
H is summed up over blocks of D; everything made of it, R × T a pair, stays in registers. Then blocks of columns of d
pass by: each becomes a part of Zv and Zu, goes through tanh, and leaves nothing but its share of Zv w_v and Zu w_u.

Products are of `DTYPE`, float32 exactly (no TF32), float16 or bfloat16 on tensor cores; sums, softmaxes and norms are
float32. Sizes are padded to powers of two by masks: what lies in padded rows is never read.

Importing this file needs Triton. Where TRITON_INTERPRET=1 was set before, it runs on the CPU, for tests.
"""

# Triton reads this source: `from __future__ import annotations` would hide its constexpr annotations.
import triton
import triton.language as tl

NORM_EPS_SQUARED = tl.constexpr(1e-12)  # (1e-6)², as in l2norm(x) = x / max(‖x‖₂, 1e-6)
_IMAGES_IN_TURN = tl.constexpr(16)
_INTERPRETED = tl.constexpr(triton.knobs.runtime.interpret)


@triton.jit(do_not_specialize=["n", "m", "R", "T"])  # a tile's sizes: compiled for one, good for all
def score_kernel(
    image_states,  # (n, R, 2D + 3d): [V | VK | VQ1 | VQ2 | VQ6]
    image_lengths,  # (n,) int64
    text_states,  # (m, T, D + 3d): [U | UQ3 | UQ4 | UQ5]
    text_lengths,  # (m,) int64
    weights,  # (2, d) float32: w_v, w_u
    n,
    m,
    R,
    T,
    D,
    d,
    scale,  # λ
    scores,  # (n, m) float32, the output
    R_PAD: tl.constexpr,  # R and T as powers of two, 16 at least
    T_PAD: tl.constexpr,
    CAPTIONS: tl.constexpr,  # that a program scores; a power of two
    BLOCK_D: tl.constexpr,  # columns of D and of d at a time
    BLOCK_A: tl.constexpr,
    DTYPE: tl.constexpr,
):
    """Scores of `CAPTIONS` captions with one image. Grid: (n · ⌈m / CAPTIONS⌉,)."""
    image, first = _place(tl.program_id(0), n, m, CAPTIONS)
    region = tl.arange(0, R_PAD)
    row = tl.arange(0, CAPTIONS * T_PAD)  # all words of all captions
    caption, word = first + row // T_PAD, row % T_PAD
    is_region = region < tl.load(image_lengths + image)  # (R_PAD,)
    is_word = word < tl.load(text_lengths + caption, mask=caption < m, other=0)  # (CAPTIONS·T_PAD,)
    image_rows = image_states + (image.to(tl.int64) * R + region)[:, None] * (2 * D + 3 * d)
    text_rows = text_states + (caption.to(tl.int64) * T + word)[:, None] * (D + 3 * d)

    H = _product(image_rows + D, is_region, text_rows, is_word, D, BLOCK_D, R_PAD, CAPTIONS * T_PAD, DTYPE)
    H = _tanh(H, tl.float32)
    valid = is_region[:, None] & is_word[None, :]
    Hu, Hv = _cross_softmax(
        _per_caption(scale * H, CAPTIONS, T_PAD), _per_caption(valid, CAPTIONS, T_PAD)
    )  # (CAPTIONS, R_PAD, T_PAD)
    A = (Hu * tl.rsqrt(tl.maximum(tl.sum(Hu * Hu, 2), NORM_EPS_SQUARED))[:, :, None]).to(DTYPE)
    B = (Hv * tl.rsqrt(tl.maximum(tl.sum(Hv * Hv, 1), NORM_EPS_SQUARED))[:, None, :]).to(DTYPE)
    Su = _dot_each(tl.permute(B, (0, 2, 1)), B).to(DTYPE)  # (CAPTIONS, T_PAD, T_PAD)
    Hu = Hu.to(DTYPE)
    # With one row for every word of every caption: their products with the image's columns are plain ones.
    A_rows = tl.reshape(tl.permute(A, (0, 2, 1)), (CAPTIONS * T_PAD, R_PAD))
    Hv_rows = tl.reshape(tl.permute(Hv, (0, 2, 1)), (CAPTIONS * T_PAD, R_PAD)).to(DTYPE)

    region_logits = tl.zeros((CAPTIONS, R_PAD), tl.float32)  # Zv w_v
    word_logits = tl.zeros((CAPTIONS, T_PAD), tl.float32)  # Zu w_u
    for start in range(0, d, BLOCK_A):
        column = start + tl.arange(0, BLOCK_A)
        w_v = tl.load(weights + column, mask=column < d, other=0.0)
        w_u = tl.load(weights + d + column, mask=column < d, other=0.0)
        VQ1 = _columns(image_rows + 2 * D, column, is_region, d)
        VQ2 = _columns(image_rows + 2 * D + d, column, is_region, d).to(DTYPE)
        VQ6 = _columns(image_rows + 2 * D + 2 * d, column, is_region, d).to(DTYPE)
        UQ3 = _columns(text_rows + D, column, is_word, d).to(DTYPE)
        UQ4 = _columns(text_rows + D + d, column, is_word, d)
        UQ5 = _columns(text_rows + D + 2 * d, column, is_word, d).to(DTYPE)

        context = _dot(A_rows, VQ2).to(DTYPE)  # Aᵀ (V Q2), (CAPTIONS·T_PAD, BLOCK_A)
        Zv = _dot_each(Hu, _by_caption(UQ3, CAPTIONS), _dot_each(A, _by_caption(context, CAPTIONS)))
        Zv = _tanh(Zv + VQ1.to(tl.float32)[None], DTYPE)  # (CAPTIONS, R_PAD, BLOCK_A)
        region_logits += tl.sum(Zv * w_v[None, None, :], 2)

        attended = _dot(Hv_rows, VQ6) + UQ4.to(tl.float32)  # Hvᵀ (V Q6) + U Q4
        Zu = _dot_each(Su, _by_caption(UQ5, CAPTIONS), _by_caption(attended, CAPTIONS))
        Zu = _tanh(Zu, DTYPE)  # (CAPTIONS, T_PAD, BLOCK_A)
        word_logits += tl.sum(Zu * w_u[None, None, :], 2)

    av = _softmax(region_logits, tl.broadcast_to(is_region[None, :], (CAPTIONS, R_PAD)), 1)
    au = _softmax(word_logits, tl.reshape(is_word, (CAPTIONS, T_PAD)), 1)
    # (avᵀ V) · (auᵀ U) = avᵀ (V Uᵀ) au
    VU = _product(image_rows, is_region, text_rows, is_word, D, BLOCK_D, R_PAD, CAPTIONS * T_PAD, DTYPE)
    VU = _per_caption(VU, CAPTIONS, T_PAD)
    score = tl.sum(tl.sum(VU * au[:, None, :], 2) * av, 1)  # (CAPTIONS,)
    found = first + tl.arange(0, CAPTIONS)
    tl.store(scores + image.to(tl.int64) * m + found, score, mask=found < m)


@triton.jit
def _place(program, n, m, CAPTIONS: tl.constexpr):
    """The image and the first caption of a program.

    Some images take turns with each group of captions, so that programs at work at the same time share both, and find
    them in the GPU's cache.
    """
    groups = tl.cdiv(m, CAPTIONS)
    turn = program // (_IMAGES_IN_TURN * groups)
    start = turn * _IMAGES_IN_TURN
    width = tl.minimum(n - start, _IMAGES_IN_TURN)
    within = program - start * groups
    return start + within % width, within // width * CAPTIONS


@triton.jit
def _product(
    left,  # rows' addresses (M, 1)
    is_left,
    right,  # (N, 1)
    is_right,
    D,
    BLOCK: tl.constexpr,
    M: tl.constexpr,
    N: tl.constexpr,
    DTYPE: tl.constexpr,
):
    """left rightᵀ over their first D columns, (M, N) float32."""
    total = tl.zeros((M, N), tl.float32)
    for start in range(0, D, BLOCK):
        column = start + tl.arange(0, BLOCK)
        total = _dot(
            _columns(left, column, is_left, D).to(DTYPE),
            tl.trans(_columns(right, column, is_right, D).to(DTYPE)),
            total,
        )
    return total


@triton.jit
def _columns(rows, column, is_row, size):
    """Some columns of some rows, 0 where there is none."""
    return tl.load(rows + column[None, :], mask=is_row[:, None] & (column < size)[None, :], other=0.0)


@triton.jit
def _dot(left, right, total=None):
    if _INTERPRETED:  # it has no products of bfloat16; of these values float32 makes the same
        left, right = left.to(tl.float32), right.to(tl.float32)
    return tl.dot(left, right, total, input_precision="ieee")


@triton.jit
def _dot_each(left, right, total=None):
    """Products of (CAPTIONS, M, K) and (CAPTIONS, K, N), a warp's each. All warps share one that is alone."""
    if left.shape[0] > 1:
        total = _dot(left, right, total)
    else:
        one_left = tl.reshape(left, (left.shape[1], left.shape[2]))
        one_right = tl.reshape(right, (right.shape[1], right.shape[2]))
        if total is not None:
            total = tl.reshape(total, (total.shape[1], total.shape[2]))
        total = _dot(one_left, one_right, total)[None]
    return total


@triton.jit
def _per_caption(x, CAPTIONS: tl.constexpr, T_PAD: tl.constexpr):
    """(R_PAD, CAPTIONS·T_PAD) → (CAPTIONS, R_PAD, T_PAD)."""
    return tl.permute(tl.reshape(x, (x.shape[0], CAPTIONS, T_PAD)), (1, 0, 2))


@triton.jit
def _by_caption(x, CAPTIONS: tl.constexpr):
    """(CAPTIONS·T_PAD, columns) → (CAPTIONS, T_PAD, columns)."""
    return tl.reshape(x, (CAPTIONS, x.shape[0] // CAPTIONS, x.shape[1]))


@triton.jit
def _cross_softmax(logits, valid):
    """Hu and Hv from λH, all (CAPTIONS, R_PAD, T_PAD); 0 where there is no region or no word."""
    return _softmax(logits, valid, 2), _softmax(logits, valid, 1)


@triton.jit
def _softmax(x, valid, AXIS: tl.constexpr):
    """Along an axis, over what is valid; 0 elsewhere, and where nothing is valid."""
    top = tl.max(tl.where(valid, x, float("-inf")), AXIS, keep_dims=True)
    # Where nothing is valid, any number but -inf will do.
    shares = tl.where(valid, tl.exp(x - tl.where(top == float("-inf"), 0.0, top)), 0.0)
    total = tl.sum(shares, AXIS, keep_dims=True)
    return shares / tl.where(total == 0.0, 1.0, total)


@triton.jit
def _tanh(x, DTYPE: tl.constexpr):
    """As right as products of this type are: to 2e-7, or by the GPU's own instruction, right to 16 bits."""
    if DTYPE == tl.float32 or _INTERPRETED:  # noqa: SIM300
        # exp(2x) is 0 or infinity where tanh is -1 or 1
        result = 1.0 - 2.0 / (tl.exp(2.0 * x) + 1.0)
    else:
        # Its form for two float16 at once becomes two instructions: no gain.
        result = tl.inline_asm_elementwise("tanh.approx.f32 $0, $1;", "=f,f", [x], tl.float32, True, 1)
    return result
