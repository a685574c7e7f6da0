"""The scorer as one Triton kernel: states in, scores out, nothing in between in the GPU's memory.

One program scores an image or two with a few captions (docs/model.md has the equations and what a state is). The
affinity H is summed up over blocks of D; what is made of it, R × T a pair, stays in registers. Then blocks of columns
of d pass by: each becomes a part of Zv and Zu, goes through tanh, and leaves only its share of Zv w_v and Zu w_u.

Products are of `DTYPE`, float32 exactly (no TF32), float16 or bfloat16 on tensor cores; sums, softmaxes and norms are
float32. Sizes are padded by masks, T to a power of two, R to one or to two (36 to 32 + 16): what lies in padded rows is
never read. Words come first, (CAPTIONS·T_PAD, …), wherever captions share the image's side of a product: that makes 64
rows of four captions, which compute capability 9.0 multiplies by a group of warps at once, each warp having a caption.

Importing this file needs Triton. Where TRITON_INTERPRET=1 was set before, it runs on the CPU, for tests.
"""

# Triton reads this source: `from __future__ import annotations` would hide its constexpr annotations.
import triton
import triton.language as tl

_IMAGES_IN_TURN = tl.constexpr(16)
_SPREAD = tl.constexpr(4)  # threads that have a row's columns of a product, in pairs
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
    IMAGES: tl.constexpr,  # that a program scores, 1 or 2
    CAPTIONS: tl.constexpr,  # that it scores with each; a power of two
    BLOCK_D: tl.constexpr,  # columns of D and of d at a time
    BLOCK_A: tl.constexpr,
    STAGES: tl.constexpr,  # of the pipeline that fetches the latter
    DTYPE: tl.constexpr,
):
    """Scores of `CAPTIONS` captions with `IMAGES` images. Grid: (⌈n / IMAGES⌉ · ⌈m / CAPTIONS⌉,)."""
    image, first = _place(tl.program_id(0), tl.cdiv(n, IMAGES), m, CAPTIONS)
    image *= IMAGES
    row = tl.arange(0, CAPTIONS * T_PAD)  # all words of all captions
    caption, word = first + row // T_PAD, row % T_PAD
    is_word = word < tl.load(text_lengths + caption, mask=caption < m, other=0)  # (CAPTIONS·T_PAD,)
    text_rows = text_states + (caption.to(tl.int64) * T + word)[:, None] * (D + 3 * d)

    # U (VK)ᵀ and U Vᵀ, a row for each word of each caption. The second is wanted last of all, for the score, which is
    # (avᵀ V) · (auᵀ U) = avᵀ (V Uᵀ) au; but here U is at hand.
    images = (image_states, image_lengths, image, n, R, 2 * D + 3 * d)
    high_rows, is_high = _both(images, D, 0, R_HIGH, IMAGES)
    high = tl.zeros((CAPTIONS * T_PAD, IMAGES * 2 * R_HIGH), tl.float32)
    if R_LOW > 0:
        low_rows, is_low = _both(images, D, R_HIGH, R_LOW, IMAGES)
        low = tl.zeros((CAPTIONS * T_PAD, IMAGES * 2 * R_LOW), tl.float32)
    for start in range(0, D, BLOCK_D):
        column = start + tl.arange(0, BLOCK_D)
        U = _columns(text_rows, column, is_word, D).to(DTYPE)
        high = _dot(U, tl.trans(_columns(high_rows, column, is_high, D).to(DTYPE)), high)
        if R_LOW > 0:
            low = _dot(U, tl.trans(_columns(low_rows, column, is_low, D).to(DTYPE)), low)
    high = _apart(high, R_HIGH, IMAGES)
    low = _apart(low, R_LOW, IMAGES) if R_LOW > 0 else high

    # An image: addresses of its regions and which there are, in one part or two; then all that was made of H.
    one = _regions(images, 0, R_HIGH, R_LOW)
    one_H = _attend(high[0], low[0], is_word, one, scale, CAPTIONS, R_LOW, DTYPE)
    one_sums = _zeros(CAPTIONS, R_HIGH, R_LOW, T_PAD)
    if IMAGES == 2:
        two = _regions(images, 1, R_HIGH, R_LOW)
        two_H = _attend(high[2], low[2], is_word, two, scale, CAPTIONS, R_LOW, DTYPE)
        two_sums = _zeros(CAPTIONS, R_HIGH, R_LOW, T_PAD)

    # The words' rows by caption. Made by `reshape`, Triton would not see that a row's numbers lie side by side.
    own, each = (first + tl.arange(0, CAPTIONS))[:, None], tl.arange(0, T_PAD)[None, :]
    word_rows = text_states + (own.to(tl.int64) * T + each)[:, :, None] * (D + 3 * d)
    is_each_word = each < tl.load(text_lengths + own, mask=own < m, other=0)  # (CAPTIONS, T_PAD)
    for start in tl.range(0, d, BLOCK_A, num_stages=STAGES):
        column = start + tl.arange(0, BLOCK_A)
        w_v = tl.load(weights + column, mask=column < d, other=0.0)[None, None, :]
        w_u = tl.load(weights + d + column, mask=column < d, other=0.0)[None, None, :]
        UQ3 = _columns(word_rows + D, column, is_each_word, d).to(DTYPE)  # (CAPTIONS, T_PAD, BLOCK_A)
        UQ4 = _columns(text_rows + D + d, column, is_word, d).to(tl.float32)
        UQ5 = _columns(word_rows + D + 2 * d, column, is_each_word, d).to(DTYPE)
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
def _both(images, D, FIRST: tl.constexpr, SIZE: tl.constexpr, IMAGES: tl.constexpr):
    """Addresses of some regions' rows of VK, then of V, of each image (IMAGES·2·SIZE, 1), and which there are."""
    image_states, image_lengths, image, n, R, width = images
    row = tl.arange(0, IMAGES * 2 * SIZE)
    own, region = image + row // (2 * SIZE), FIRST + row % SIZE
    is_row = region < tl.load(image_lengths + own, mask=own < n, other=0)
    start = (1 - row // SIZE % 2) * D
    return image_states + ((own.to(tl.int64) * R + region) * width + start)[:, None], is_row


@triton.jit
def _apart(x, SIZE: tl.constexpr, IMAGES: tl.constexpr):
    """What `_both` made, (words, IMAGES·2·SIZE) → U (VK)ᵀ and U Vᵀ, (words, SIZE), of each image."""
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
    """Of the program's image of this number: addresses of its rows (R_HIGH, 1) and which are regions, then R_LOW's."""
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
    """From U (VK)ᵀ, (CAPTIONS·T_PAD, regions): Su, and for each part of the regions Hv, Hu, A, A with words as rows."""
    high = _affinity(high, is_word, image[1], scale)
    top = tl.max(high, 1)
    if R_LOW > 0:
        low = _affinity(low, is_word, image[3], scale)
        top = tl.maximum(top, tl.max(low, 1))
    # A word's shares of the regions, which the parts have together.
    shares = _shares(high, top[:, None])
    total, squares = tl.sum(shares, 1), tl.sum(shares * shares, 1)
    if R_LOW > 0:
        low_shares = _shares(low, top[:, None])
        total += tl.sum(low_shares, 1)
        squares += tl.sum(low_shares * low_shares, 1)
    # B = Hv / ‖Hv‖ = shares / ‖shares‖; the largest share is 1, so that no norm is near 0.
    norm = tl.rsqrt(tl.where(squares == 0.0, 1.0, squares))[:, None]
    total = 1.0 / tl.where(total == 0.0, 1.0, total)[:, None]
    Su = _gram((shares * norm).to(DTYPE), None, CAPTIONS)
    if R_LOW > 0:
        Su = _gram((low_shares * norm).to(DTYPE), Su, CAPTIONS)
    Su = Su.to(DTYPE)  # (CAPTIONS, T_PAD, T_PAD)
    Hu, A, rows = _attend_words(high, CAPTIONS, DTYPE)
    made = (Su, (shares * total).to(DTYPE), Hu, A, rows)
    if R_LOW > 0:
        Hu, A, rows = _attend_words(low, CAPTIONS, DTYPE)
        made = made + ((low_shares * total).to(DTYPE), Hu, A, rows)  # noqa: RUF005
    return made


@triton.jit
def _zeros(CAPTIONS: tl.constexpr, R_HIGH: tl.constexpr, R_LOW: tl.constexpr, T_PAD: tl.constexpr):
    """Zu w_u and Zv w_v, spread over some columns until the end, so that threads need not add up theirs each time."""
    sums = (tl.zeros((CAPTIONS, T_PAD, _SPREAD), tl.float32), tl.zeros((CAPTIONS, R_HIGH, _SPREAD), tl.float32))
    if R_LOW > 0:
        sums = sums + (tl.zeros((CAPTIONS, R_LOW, _SPREAD), tl.float32),)  # noqa: RUF005
    return sums


@triton.jit
def _add_columns(sums, image, H, words, column, D, d, CAPTIONS: tl.constexpr, R_LOW: tl.constexpr, DTYPE: tl.constexpr):
    """`sums` with what some columns of Zu and Zv add to it."""
    UQ3, UQ4, UQ5, w_v, w_u = words
    VQ1, VQ2, VQ6 = _three(image[0] + 2 * D, column, image[1], d)
    context = _dot(H[4], VQ2.to(DTYPE))  # Aᵀ (V Q2), (CAPTIONS·T_PAD, BLOCK_A)
    attended = _dot(H[1], VQ6.to(DTYPE), UQ4)  # Hvᵀ (V Q6) + U Q4
    if R_LOW > 0:
        low_VQ1, VQ2, VQ6 = _three(image[2] + 2 * D, column, image[3], d)
        context = _dot(H[8], VQ2.to(DTYPE), context)
        attended = _dot(H[5], VQ6.to(DTYPE), attended)
    context = _by_caption(context.to(DTYPE), CAPTIONS)
    Zv = _tanh(_region_columns(H[3], context, H[2], UQ3, VQ1), DTYPE)  # (CAPTIONS, R_HIGH, BLOCK_A)
    high = sums[1] + _spread_sum(Zv * w_v)
    if R_LOW > 0:
        Zv = _tanh(_region_columns(H[7], context, H[6], UQ3, low_VQ1), DTYPE)
        low = sums[2] + _spread_sum(Zv * w_v)
    Zu = _tanh(_dot_each(H[0], UQ5, _by_caption(attended, CAPTIONS)), DTYPE)  # (CAPTIONS, T_PAD, BLOCK_A)
    word = sums[0] + _spread_sum(Zu * w_u)
    return (word, high, low) if R_LOW > 0 else (word, high)


@triton.jit
def _three(rows, column, is_row, d):
    """Some columns of VQ1, VQ2 and VQ6."""
    return (
        _columns(rows, column, is_row, d),
        _columns(rows + d, column, is_row, d),
        _columns(rows + 2 * d, column, is_row, d),
    )


@triton.jit
def _pool(sums, image, high_UV, low_UV, is_word, CAPTIONS: tl.constexpr, R_LOW: tl.constexpr):
    """avᵀ (V Uᵀ) au of each caption, (CAPTIONS,)."""
    au = _softmax(tl.sum(sums[0], 2), tl.reshape(is_word, (CAPTIONS, sums[0].shape[1])), 1)
    au = tl.reshape(au, (CAPTIONS * sums[0].shape[1],))[:, None]
    high = _masked(tl.sum(sums[1], 2), image[1])  # (CAPTIONS, R_HIGH)
    top = tl.max(high, 1)
    if R_LOW > 0:
        low = _masked(tl.sum(sums[2], 2), image[3])
        top = tl.maximum(top, tl.max(low, 1))
    shares = _shares(high, top[:, None])
    total = tl.sum(shares, 1)
    score = tl.sum(tl.sum(_by_caption(high_UV * au, CAPTIONS), 1) * shares, 1)
    if R_LOW > 0:
        shares = _shares(low, top[:, None])
        total += tl.sum(shares, 1)
        score += tl.sum(tl.sum(_by_caption(low_UV * au, CAPTIONS), 1) * shares, 1)
    return score / tl.where(total == 0.0, 1.0, total)


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
    """As right as products of this type are: to 2e-7, or by the GPU's own instruction, right to 2⁻¹¹ of tanh."""
    if DTYPE == tl.float32 or _INTERPRETED:  # noqa: SIM300
        # exp(2x) is 0 or infinity where tanh is -1 or 1
        result = 1.0 - 2.0 / (tl.exp(2.0 * x) + 1.0)
    else:
        # Its form for two float16 at once, and that for bfloat16, become two instructions and a move: no gain.
        result = tl.inline_asm_elementwise("tanh.approx.f32 $0, $1;", "=f,f", [x], tl.float32, True, 1)
    return result
