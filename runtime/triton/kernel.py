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
_SPREAD = tl.constexpr(4)
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
    R_HIGH: tl.constexpr,  # R in one part or two, powers of two, 16 at least; 0 for no second one
    R_LOW: tl.constexpr,
    T_PAD: tl.constexpr,  # T as a power of two, 16 at least
    CAPTIONS: tl.constexpr,  # that a program scores; a power of two
    BLOCK_D: tl.constexpr,  # columns of D and of d at a time
    BLOCK_A: tl.constexpr,
    STAGES: tl.constexpr,  # of the pipeline that fetches the latter
    DTYPE: tl.constexpr,
):
    """Scores of `CAPTIONS` captions with one image. Grid: (n · ⌈m / CAPTIONS⌉,)."""
    image, first = _place(tl.program_id(0), n, m, CAPTIONS)
    row = tl.arange(0, CAPTIONS * T_PAD)  # all words of all captions
    caption, word = first + row // T_PAD, row % T_PAD
    is_word = word < tl.load(text_lengths + caption, mask=caption < m, other=0)  # (CAPTIONS·T_PAD,)
    text_rows = text_states + (caption.to(tl.int64) * T + word)[:, None] * (D + 3 * d)
    regions = tl.load(image_lengths + image)
    high_rows, is_high = _regions(image_states, image, R, regions, 2 * D + 3 * d, 0, R_HIGH)
    if R_LOW > 0:
        low_rows, is_low = _regions(image_states, image, R, regions, 2 * D + 3 * d, R_HIGH, R_LOW)

    # U (VK)ᵀ and U Vᵀ: a row for each word of each caption. The second is wanted last of all, for the score, which is
    # (avᵀ V) · (auᵀ U) = avᵀ (V Uᵀ) au; but here U is at hand.
    H_high = tl.zeros((CAPTIONS * T_PAD, R_HIGH), tl.float32)
    UV_high = tl.zeros((CAPTIONS * T_PAD, R_HIGH), tl.float32)
    if R_LOW > 0:
        H_low = tl.zeros((CAPTIONS * T_PAD, R_LOW), tl.float32)
        UV_low = tl.zeros((CAPTIONS * T_PAD, R_LOW), tl.float32)
    for start in range(0, D, BLOCK_D):
        column = start + tl.arange(0, BLOCK_D)
        U = _columns(text_rows, column, is_word, D).to(DTYPE)
        H_high = _dot(U, tl.trans(_columns(high_rows + D, column, is_high, D).to(DTYPE)), H_high)
        UV_high = _dot(U, tl.trans(_columns(high_rows, column, is_high, D).to(DTYPE)), UV_high)
        if R_LOW > 0:
            H_low = _dot(U, tl.trans(_columns(low_rows + D, column, is_low, D).to(DTYPE)), H_low)
            UV_low = _dot(U, tl.trans(_columns(low_rows, column, is_low, D).to(DTYPE)), UV_low)

    H_high = _affinity(H_high, is_word, is_high, scale)  # -inf where there is no word or no region
    top = tl.max(H_high, 1)
    if R_LOW > 0:
        H_low = _affinity(H_low, is_word, is_low, scale)
        top = tl.maximum(top, tl.max(H_low, 1))
    # A word's shares of the regions, which the parts have together.
    Hv_high = _shares(H_high, top[:, None])
    total, squares = tl.sum(Hv_high, 1), tl.sum(Hv_high * Hv_high, 1)
    if R_LOW > 0:
        Hv_low = _shares(H_low, top[:, None])
        total += tl.sum(Hv_low, 1)
        squares += tl.sum(Hv_low * Hv_low, 1)
    norm = tl.rsqrt(tl.where(squares == 0.0, 1.0, squares))[:, None]  # of shares: of Hv it is this one's part too
    total = 1.0 / tl.where(total == 0.0, 1.0, total)[:, None]
    Su = _gram((Hv_high * norm).to(DTYPE), None, CAPTIONS)
    Hv_high = (Hv_high * total).to(DTYPE)
    Hu_high, A_high, A_high_rows = _attend_words(H_high, CAPTIONS, DTYPE)
    if R_LOW > 0:
        Su = _gram((Hv_low * norm).to(DTYPE), Su, CAPTIONS)
        Hv_low = (Hv_low * total).to(DTYPE)
        Hu_low, A_low, A_low_rows = _attend_words(H_low, CAPTIONS, DTYPE)
    Su = Su.to(DTYPE)  # (CAPTIONS, T_PAD, T_PAD)

    # The same rows by caption. Made by `reshape`, Triton would not see that a row's numbers lie side by side.
    own, each = (first + tl.arange(0, CAPTIONS))[:, None], tl.arange(0, T_PAD)[None, :]
    word_rows = text_states + (own.to(tl.int64) * T + each)[:, :, None] * (D + 3 * d)
    is_each_word = each < tl.load(text_lengths + own, mask=own < m, other=0)  # (CAPTIONS, T_PAD)
    # Zv w_v and Zu w_u, spread over some columns until the end, so that threads need not add up theirs each time.
    high_logits = tl.zeros((CAPTIONS, R_HIGH, _SPREAD), tl.float32)
    if R_LOW > 0:
        low_logits = tl.zeros((CAPTIONS, R_LOW, _SPREAD), tl.float32)
    word_logits = tl.zeros((CAPTIONS, T_PAD, _SPREAD), tl.float32)
    for start in tl.range(0, d, BLOCK_A, num_stages=STAGES):
        column = start + tl.arange(0, BLOCK_A)
        w_v = tl.load(weights + column, mask=column < d, other=0.0)
        w_u = tl.load(weights + d + column, mask=column < d, other=0.0)
        UQ3 = _columns(word_rows + D, column, is_each_word, d).to(DTYPE)  # (CAPTIONS, T_PAD, BLOCK_A)
        UQ4 = _columns(text_rows + D + d, column, is_word, d)
        UQ5 = _columns(word_rows + D + 2 * d, column, is_each_word, d).to(DTYPE)
        VQ2 = _columns(high_rows + 2 * D + d, column, is_high, d).to(DTYPE)
        VQ6 = _columns(high_rows + 2 * D + 2 * d, column, is_high, d).to(DTYPE)
        context = _dot(A_high_rows, VQ2)  # Aᵀ (V Q2), (CAPTIONS·T_PAD, BLOCK_A)
        attended = _dot(Hv_high, VQ6, UQ4.to(tl.float32))  # Hvᵀ (V Q6) + U Q4
        if R_LOW > 0:
            VQ2 = _columns(low_rows + 2 * D + d, column, is_low, d).to(DTYPE)
            VQ6 = _columns(low_rows + 2 * D + 2 * d, column, is_low, d).to(DTYPE)
            context = _dot(A_low_rows, VQ2, context)
            attended = _dot(Hv_low, VQ6, attended)
        context = _by_caption(context.to(DTYPE), CAPTIONS)

        VQ1 = _columns(high_rows + 2 * D, column, is_high, d)
        Zv = _tanh(_region_columns(A_high, context, Hu_high, UQ3, VQ1), DTYPE)  # (CAPTIONS, R_HIGH, BLOCK_A)
        high_logits += _spread_sum(Zv * w_v[None, None, :])
        if R_LOW > 0:
            VQ1 = _columns(low_rows + 2 * D, column, is_low, d)
            Zv = _tanh(_region_columns(A_low, context, Hu_low, UQ3, VQ1), DTYPE)
            low_logits += _spread_sum(Zv * w_v[None, None, :])
        Zu = _tanh(_dot_each(Su, UQ5, _by_caption(attended, CAPTIONS)), DTYPE)  # (CAPTIONS, T_PAD, BLOCK_A)
        word_logits += _spread_sum(Zu * w_u[None, None, :])

    au = _softmax(tl.sum(word_logits, 2), tl.reshape(is_word, (CAPTIONS, T_PAD)), 1)
    au = tl.reshape(au, (CAPTIONS * T_PAD,))[:, None]
    high = _masked(tl.sum(high_logits, 2), is_high)  # (CAPTIONS, R_HIGH)
    top = tl.max(high, 1)
    if R_LOW > 0:
        low = _masked(tl.sum(low_logits, 2), is_low)
        top = tl.maximum(top, tl.max(low, 1))
    shares = _shares(high, top[:, None])
    total = tl.sum(shares, 1)
    score = tl.sum(tl.sum(_by_caption(UV_high * au, CAPTIONS), 1) * shares, 1)  # (CAPTIONS,)
    if R_LOW > 0:
        shares = _shares(low, top[:, None])
        total += tl.sum(shares, 1)
        score += tl.sum(tl.sum(_by_caption(UV_low * au, CAPTIONS), 1) * shares, 1)
    score = score / tl.where(total == 0.0, 1.0, total)
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
def _regions(image_states, image, R, regions, width, FIRST: tl.constexpr, SIZE: tl.constexpr):
    """Addresses of some rows of an image (SIZE, 1), and which of them are regions (SIZE,)."""
    region = FIRST + tl.arange(0, SIZE)
    return image_states + (image.to(tl.int64) * R + region)[:, None] * width, region < regions


@triton.jit
def _columns(rows, column, is_row, size):
    """Some columns of some rows, 0 where there is none. rows: addresses (…, rows, 1)."""
    if len(rows.shape) == 2:
        addresses, valid = rows + column[None, :], is_row[:, None] & (column < size)[None, :]
    else:
        addresses, valid = rows + column[None, None, :], is_row[:, :, None] & (column < size)[None, None, :]
    return tl.load(addresses, mask=valid, other=0.0)


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
def _by_caption(x, CAPTIONS: tl.constexpr):
    """(CAPTIONS·T_PAD, columns) → (CAPTIONS, T_PAD, columns)."""
    return tl.reshape(x, (CAPTIONS, x.shape[0] // CAPTIONS, x.shape[1]))


@triton.jit
def _affinity(H, is_word, is_region, scale):
    """λ tanh(H), (CAPTIONS·T_PAD, regions); -inf where there is no word or no region."""
    return tl.where(is_word[:, None] & is_region[None, :], scale * _tanh(H, tl.float32), float("-inf"))


@triton.jit
def _masked(x, valid):
    return tl.where(valid[None, :], x, float("-inf"))


@triton.jit
def _shares(x, top):
    """exp(x - top), 0 where x is -inf."""
    # Where nothing is valid, any top but -inf will do.
    return tl.exp(x - tl.where(top == float("-inf"), 0.0, top))


@triton.jit
def _softmax(x, valid, AXIS: tl.constexpr):
    """Along an axis, over what is valid; 0 elsewhere, and where nothing is valid."""
    x = tl.where(valid, x, float("-inf"))
    shares = _shares(x, tl.max(x, AXIS, keep_dims=True))
    total = tl.sum(shares, AXIS, keep_dims=True)
    return shares / tl.where(total == 0.0, 1.0, total)


@triton.jit
def _attend_words(x, CAPTIONS: tl.constexpr, DTYPE: tl.constexpr):
    """From λH (CAPTIONS·T_PAD, regions): Hu and A (CAPTIONS, regions, T_PAD), and A with a row for every word."""
    x = _by_caption(x, CAPTIONS)
    shares = _shares(x, tl.max(x, 1, keep_dims=True))
    total, squares = tl.sum(shares, 1, keep_dims=True), tl.sum(shares * shares, 1, keep_dims=True)
    Hu = (shares / tl.where(total == 0.0, 1.0, total)).to(DTYPE)
    A = (shares * tl.rsqrt(tl.where(squares == 0.0, 1.0, squares))).to(DTYPE)
    rows = tl.reshape(A, (CAPTIONS * A.shape[1], A.shape[2]))
    return _transposed(Hu), _transposed(A), rows


@triton.jit
def _transposed(x):
    """(CAPTIONS, words, regions) → (CAPTIONS, regions, words), as what a product makes.

    Products of it with others then find it in registers as they need it; what `permute` alone makes would be moved
    there each time. Multiplied by 1 and added to zeros, numbers stay what they are.
    """
    word = tl.arange(0, x.shape[1])
    one = tl.broadcast_to((word[:, None] == word[None, :])[None], (x.shape[0], x.shape[1], x.shape[1]))
    return _dot_each(tl.permute(x, (0, 2, 1)), one.to(x.dtype)).to(x.dtype)


@triton.jit
def _gram(B, total, CAPTIONS: tl.constexpr):
    """Bᵀ B of rows for every word, (CAPTIONS, T_PAD, T_PAD)."""
    each = _by_caption(B, CAPTIONS)
    return _dot_each(each, tl.permute(each, (0, 2, 1)), total)


@triton.jit
def _region_columns(A, context, Hu, UQ3, VQ1):
    """V Q1 + A (Aᵀ V Q2) + Hu (U Q3), (CAPTIONS, regions, BLOCK_A)."""
    start = tl.broadcast_to(VQ1.to(tl.float32)[None], (A.shape[0], VQ1.shape[0], VQ1.shape[1]))
    return _dot_each(Hu, UQ3, _dot_each(A, context, start))


@triton.jit
def _spread_sum(x):
    """(CAPTIONS, rows, columns) → (CAPTIONS, rows, _SPREAD): of 8 columns a thread has 2, which it adds up."""
    x = tl.reshape(x, (x.shape[0], x.shape[1], x.shape[2] // (2 * _SPREAD), _SPREAD, 2))
    return tl.sum(tl.sum(x, 4), 2)


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
