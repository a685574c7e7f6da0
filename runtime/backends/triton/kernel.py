"""The scorer as one Triton kernel: states in, scores out, no intermediates in the GPU's memory.

One program scores one or two images with a few captions (docs/model.md defines the equations and states). The affinity
H is accumulated over blocks of D; everything derived from it, R × T per pair, stays in registers. Then a loop over
blocks of d computes parts of Zv and Zu, applies tanh, and keeps only their contributions to Zv w_v and Zu w_u.

Products use `DTYPE`: exact float32 (no TF32), or float16 or bfloat16 on tensor cores; sums, softmaxes and norms are
float32. Sizes are padded with masks, T to a power of two, R to one power of two or the sum of two (36 to 32 + 16);
padded rows are never read. Words come first, (CAPTIONS·T_PAD, …), wherever captions share the image's side of a
product: four captions then form 64 rows, which a warp group of compute capability 9.0 multiplies at once, one caption
per warp.

Importing this file requires Triton. With TRITON_INTERPRET=1 set beforehand, the kernel runs on the CPU, for tests.
"""

# Triton reads this source: `from __future__ import annotations` would hide its constexpr annotations.
import triton
import triton.language as tl

from .blocks import (
    SPREAD,
    by_caption,
    dot,
    dot_each,
    load_columns,
    masked,
    shares_of,
    softmax,
    spread_sum,
    tanh,
    transposed,
)

_IMAGES_IN_TURN = tl.constexpr(16)


@triton.jit(do_not_specialize=["n", "m", "R", "T"])  # a tile's sizes: compiled once for all
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
    R_HIGH: tl.constexpr,  # R in one or two parts, powers of two, at least 16; R_LOW is 0 without a second part
    R_LOW: tl.constexpr,
    T_PAD: tl.constexpr,  # T padded to a power of two, at least 16
    IMAGES: tl.constexpr,  # per program, 1 or 2
    CAPTIONS: tl.constexpr,  # per program, a power of two
    BLOCK_D: tl.constexpr,  # columns of D, and of d, per iteration
    BLOCK_A: tl.constexpr,
    STAGES: tl.constexpr,  # of the load pipeline over d
    DTYPE: tl.constexpr,
):
    """Scores of `CAPTIONS` captions with `IMAGES` images. Grid: (⌈n / IMAGES⌉ · ⌈m / CAPTIONS⌉,)."""
    image, first = _place(tl.program_id(0), tl.cdiv(n, IMAGES), m, CAPTIONS)
    image *= IMAGES
    row = tl.arange(0, CAPTIONS * T_PAD)  # all words of all captions
    caption, word = first + row // T_PAD, row % T_PAD
    is_word = word < tl.load(text_lengths + caption, mask=caption < m, other=0)  # (CAPTIONS·T_PAD,)
    text_rows = text_states + (caption.to(tl.int64) * T + word)[:, None] * (D + 3 * d)

    # U (VK)ᵀ and U Vᵀ, one row per word of each caption. The second is only needed at the end, for the score
    # (avᵀ V) · (auᵀ U) = avᵀ (V Uᵀ) au, but U is loaded here.
    images = (image_states, image_lengths, image, n, R, 2 * D + 3 * d)
    high_rows, is_high = _both(images, D, 0, R_HIGH, IMAGES)
    high = tl.zeros((CAPTIONS * T_PAD, IMAGES * 2 * R_HIGH), tl.float32)
    if R_LOW > 0:
        low_rows, is_low = _both(images, D, R_HIGH, R_LOW, IMAGES)
        low = tl.zeros((CAPTIONS * T_PAD, IMAGES * 2 * R_LOW), tl.float32)
    for start in range(0, D, BLOCK_D):
        column = start + tl.arange(0, BLOCK_D)
        U = load_columns(text_rows, column, is_word, D).to(DTYPE)
        high = dot(U, tl.trans(load_columns(high_rows, column, is_high, D).to(DTYPE)), high)
        if R_LOW > 0:
            low = dot(U, tl.trans(load_columns(low_rows, column, is_low, D).to(DTYPE)), low)
    high = _apart(high, R_HIGH, IMAGES)
    low = _apart(low, R_LOW, IMAGES) if R_LOW > 0 else high

    # Per image: addresses and masks of its regions, in one or two parts; then everything derived from H.
    one = _regions(images, 0, R_HIGH, R_LOW)
    one_H = _attend(high[0], low[0], is_word, one, scale, CAPTIONS, R_LOW, DTYPE)
    one_sums = _zeros(CAPTIONS, R_HIGH, R_LOW, T_PAD)
    if IMAGES == 2:
        two = _regions(images, 1, R_HIGH, R_LOW)
        two_H = _attend(high[2], low[2], is_word, two, scale, CAPTIONS, R_LOW, DTYPE)
        two_sums = _zeros(CAPTIONS, R_HIGH, R_LOW, T_PAD)

    # The words' rows by caption. With `reshape`, Triton would not see that a row's values are contiguous.
    own, each = (first + tl.arange(0, CAPTIONS))[:, None], tl.arange(0, T_PAD)[None, :]
    word_rows = text_states + (own.to(tl.int64) * T + each)[:, :, None] * (D + 3 * d)
    is_each_word = each < tl.load(text_lengths + own, mask=own < m, other=0)  # (CAPTIONS, T_PAD)
    for start in tl.range(0, d, BLOCK_A, num_stages=STAGES):
        column = start + tl.arange(0, BLOCK_A)
        w_v = tl.load(weights + column, mask=column < d, other=0.0)[None, None, :]
        w_u = tl.load(weights + d + column, mask=column < d, other=0.0)[None, None, :]
        UQ3 = load_columns(word_rows + D, column, is_each_word, d).to(DTYPE)  # (CAPTIONS, T_PAD, BLOCK_A)
        UQ4 = load_columns(text_rows + D + d, column, is_word, d).to(tl.float32)
        UQ5 = load_columns(word_rows + D + 2 * d, column, is_each_word, d).to(DTYPE)
        words = (UQ3, UQ4, UQ5, w_v, w_u)
        one_sums = _add_columns(one_sums, one, one_H, words, column, D, d, CAPTIONS, R_LOW, DTYPE)
        if IMAGES == 2:
            two_sums = _add_columns(two_sums, two, two_H, words, column, D, d, CAPTIONS, R_LOW, DTYPE)

    found = first + tl.arange(0, CAPTIONS)
    score = _pool(one_sums, one, high[1], low[1], is_word, CAPTIONS, R_LOW)
    tl.store(scores + image.to(tl.int64) * m + found, score, mask=found < m)
    if IMAGES == 2:
        score = _pool(two_sums, two, high[3], low[3], is_word, CAPTIONS, R_LOW)
        tl.store(scores + (image + 1).to(tl.int64) * m + found, score, mask=(found < m) & (image + 1 < n))


@triton.jit
def _place(program, n, m, CAPTIONS: tl.constexpr):
    """A program's image and first caption.

    Several images alternate with each group of captions, so that concurrent programs share both in the GPU's cache.
    """
    groups = tl.cdiv(m, CAPTIONS)
    turn = program // (_IMAGES_IN_TURN * groups)
    start = turn * _IMAGES_IN_TURN
    width = tl.minimum(n - start, _IMAGES_IN_TURN)
    within = program - start * groups
    return start + within % width, within // width * CAPTIONS


@triton.jit
def _both(images, D, FIRST: tl.constexpr, SIZE: tl.constexpr, IMAGES: tl.constexpr):
    """Addresses of regions' rows of VK, then of V, of each image (IMAGES·2·SIZE, 1), and their mask."""
    image_states, image_lengths, image, n, R, width = images
    row = tl.arange(0, IMAGES * 2 * SIZE)
    own, region = image + row // (2 * SIZE), FIRST + row % SIZE
    is_row = region < tl.load(image_lengths + own, mask=own < n, other=0)
    start = (1 - row // SIZE % 2) * D
    return image_states + ((own.to(tl.int64) * R + region) * width + start)[:, None], is_row


@triton.jit
def _apart(x, SIZE: tl.constexpr, IMAGES: tl.constexpr):
    """Products with `_both`'s rows, (words, IMAGES·2·SIZE) → U (VK)ᵀ and U Vᵀ, (words, SIZE), of each image."""
    x = tl.permute(tl.reshape(x, (x.shape[0], IMAGES, 2, SIZE)), (0, 3, 1, 2))
    H, UV = tl.split(x)  # (words, SIZE, IMAGES)
    if IMAGES == 2:
        one_H, two_H = tl.split(H)
        one_UV, two_UV = tl.split(UV)
        parts = (one_H, one_UV, two_H, two_UV)
    else:
        parts = (tl.reshape(H, (H.shape[0], SIZE)), tl.reshape(UV, (H.shape[0], SIZE)))
    return parts


@triton.jit
def _regions(images, NUMBER: tl.constexpr, R_HIGH: tl.constexpr, R_LOW: tl.constexpr):
    """For the program's image NUMBER: addresses of its rows (R_HIGH, 1) and their mask, then the same for R_LOW."""
    image_states, image_lengths, image, n, R, width = images
    image += NUMBER
    length = tl.load(image_lengths + image, mask=image < n, other=0)
    image_states += image.to(tl.int64) * R * width
    high = tl.arange(0, R_HIGH)
    parts = (image_states + high[:, None] * width, high < length)
    if R_LOW > 0:
        low = R_HIGH + tl.arange(0, R_LOW)
        parts = parts + (image_states + low[:, None] * width, low < length)  # noqa: RUF005  # Triton has no *
    return parts


@triton.jit
def _attend(high, low, is_word, image, scale, CAPTIONS: tl.constexpr, R_LOW: tl.constexpr, DTYPE: tl.constexpr):
    """From U (VK)ᵀ (CAPTIONS·T_PAD, regions): Su, and per part of the regions Hv, Hu, A, and A with words as rows."""
    high = _affinity(high, is_word, image[1], scale)
    top = tl.max(high, 1)
    if R_LOW > 0:
        low = _affinity(low, is_word, image[3], scale)
        top = tl.maximum(top, tl.max(low, 1))
    # A word's shares of the regions, normalized over both parts.
    shares = shares_of(high, top[:, None])
    total, squares = tl.sum(shares, 1), tl.sum(shares * shares, 1)
    if R_LOW > 0:
        low_shares = shares_of(low, top[:, None])
        total += tl.sum(low_shares, 1)
        squares += tl.sum(low_shares * low_shares, 1)
    # B = Hv / ‖Hv‖ = shares / ‖shares‖; the largest share is 1, so no norm is near 0.
    norm = tl.rsqrt(tl.where(squares == 0.0, 1.0, squares))[:, None]
    total = 1.0 / tl.where(total == 0.0, 1.0, total)[:, None]
    Su = _gram((shares * norm).to(DTYPE), None, CAPTIONS)
    if R_LOW > 0:
        Su = _gram((low_shares * norm).to(DTYPE), Su, CAPTIONS)
    Su = Su.to(DTYPE)  # (CAPTIONS, T_PAD, T_PAD)
    Hu, A, rows = _attend_words(high, CAPTIONS, DTYPE)
    parts = (Su, (shares * total).to(DTYPE), Hu, A, rows)
    if R_LOW > 0:
        Hu, A, rows = _attend_words(low, CAPTIONS, DTYPE)
        parts = parts + ((low_shares * total).to(DTYPE), Hu, A, rows)  # noqa: RUF005
    return parts


@triton.jit
def _zeros(CAPTIONS: tl.constexpr, R_HIGH: tl.constexpr, R_LOW: tl.constexpr, T_PAD: tl.constexpr):
    """Accumulators for Zu w_u and Zv w_v, spread over SPREAD columns, so that threads are reduced only at the end."""
    sums = (tl.zeros((CAPTIONS, T_PAD, SPREAD), tl.float32), tl.zeros((CAPTIONS, R_HIGH, SPREAD), tl.float32))
    if R_LOW > 0:
        sums = sums + (tl.zeros((CAPTIONS, R_LOW, SPREAD), tl.float32),)  # noqa: RUF005
    return sums


@triton.jit
def _add_columns(sums, image, H, words, column, D, d, CAPTIONS: tl.constexpr, R_LOW: tl.constexpr, DTYPE: tl.constexpr):
    """`sums` plus the contribution of some columns of Zu and Zv."""
    UQ3, UQ4, UQ5, w_v, w_u = words
    Su, Hv, Hu, A, A_rows = H[0], H[1], H[2], H[3], H[4]
    VQ1, VQ2, VQ6 = _three(image[0] + 2 * D, column, image[1], d)
    context = dot(A_rows, VQ2.to(DTYPE))  # Aᵀ (V Q2), (CAPTIONS·T_PAD, BLOCK_A)
    attended = dot(Hv, VQ6.to(DTYPE), UQ4)  # Hvᵀ (V Q6) + U Q4
    if R_LOW > 0:
        low_VQ1, VQ2, VQ6 = _three(image[2] + 2 * D, column, image[3], d)
        Hv, low_Hu, low_A, A_rows = H[5], H[6], H[7], H[8]
        context = dot(A_rows, VQ2.to(DTYPE), context)
        attended = dot(Hv, VQ6.to(DTYPE), attended)
    context = by_caption(context.to(DTYPE), CAPTIONS)
    Zv = tanh(_region_columns(A, context, Hu, UQ3, VQ1), DTYPE)  # (CAPTIONS, R_HIGH, BLOCK_A)
    high = sums[1] + spread_sum(Zv * w_v)
    if R_LOW > 0:
        Zv = tanh(_region_columns(low_A, context, low_Hu, UQ3, low_VQ1), DTYPE)
        low = sums[2] + spread_sum(Zv * w_v)
    Zu = tanh(dot_each(Su, UQ5, by_caption(attended, CAPTIONS)), DTYPE)  # (CAPTIONS, T_PAD, BLOCK_A)
    word = sums[0] + spread_sum(Zu * w_u)
    return (word, high, low) if R_LOW > 0 else (word, high)


@triton.jit
def _three(rows, column, is_row, d):
    """Some columns of VQ1, VQ2 and VQ6."""
    return (
        load_columns(rows, column, is_row, d),
        load_columns(rows + d, column, is_row, d),
        load_columns(rows + 2 * d, column, is_row, d),
    )


@triton.jit
def _pool(sums, image, high_UV, low_UV, is_word, CAPTIONS: tl.constexpr, R_LOW: tl.constexpr):
    """avᵀ (V Uᵀ) au of each caption, (CAPTIONS,)."""
    au = softmax(tl.sum(sums[0], 2), tl.reshape(is_word, (CAPTIONS, sums[0].shape[1])), 1)
    au = tl.reshape(au, (CAPTIONS * sums[0].shape[1],))[:, None]
    high = masked(tl.sum(sums[1], 2), image[1])  # (CAPTIONS, R_HIGH)
    top = tl.max(high, 1)
    if R_LOW > 0:
        low = masked(tl.sum(sums[2], 2), image[3])
        top = tl.maximum(top, tl.max(low, 1))
    shares = shares_of(high, top[:, None])
    total = tl.sum(shares, 1)
    score = tl.sum(tl.sum(by_caption(high_UV * au, CAPTIONS), 1) * shares, 1)
    if R_LOW > 0:
        shares = shares_of(low, top[:, None])
        total += tl.sum(shares, 1)
        score += tl.sum(tl.sum(by_caption(low_UV * au, CAPTIONS), 1) * shares, 1)
    return score / tl.where(total == 0.0, 1.0, total)


@triton.jit
def _affinity(H, is_word, is_region, scale):
    """λ tanh(H), (CAPTIONS·T_PAD, regions); -inf outside words and regions."""
    return tl.where(is_word[:, None] & is_region[None, :], scale * tanh(H, tl.float32), float("-inf"))


@triton.jit
def _attend_words(x, CAPTIONS: tl.constexpr, DTYPE: tl.constexpr):
    """From λH (CAPTIONS·T_PAD, regions): Hu and A (CAPTIONS, regions, T_PAD), and A with one row per word."""
    x = by_caption(x, CAPTIONS)
    shares = shares_of(x, tl.max(x, 1, keep_dims=True))
    total, squares = tl.sum(shares, 1, keep_dims=True), tl.sum(shares * shares, 1, keep_dims=True)
    Hu = (shares / tl.where(total == 0.0, 1.0, total)).to(DTYPE)
    A = (shares * tl.rsqrt(tl.where(squares == 0.0, 1.0, squares))).to(DTYPE)
    rows = tl.reshape(A, (CAPTIONS * A.shape[1], A.shape[2]))
    return transposed(Hu), transposed(A), rows


@triton.jit
def _gram(B, total, CAPTIONS: tl.constexpr):
    """Bᵀ B with one row per word, (CAPTIONS, T_PAD, T_PAD)."""
    each = by_caption(B, CAPTIONS)
    return dot_each(each, tl.permute(each, (0, 2, 1)), total)


@triton.jit
def _region_columns(A, context, Hu, UQ3, VQ1):
    """V Q1 + A (Aᵀ V Q2) + Hu (U Q3), (CAPTIONS, regions, BLOCK_A)."""
    start = tl.broadcast_to(VQ1.to(tl.float32)[None], (A.shape[0], VQ1.shape[0], VQ1.shape[1]))
    return dot_each(Hu, UQ3, dot_each(A, context, start))
