"""Building blocks of the kernel: loads, products, softmaxes and sums."""

# Triton reads this source: `from __future__ import annotations` would hide its constexpr annotations.
import triton
import triton.language as tl

SPREAD = tl.constexpr(4)  # threads that share a row of a product, each holding pairs of columns
_INTERPRETED = tl.constexpr(triton.knobs.runtime.interpret)


@triton.jit
def load_columns(rows, column, is_row, size):
    """Load columns of rows, 0 outside the mask. rows: addresses (…, rows, 1)."""
    if len(rows.shape) == 2:
        addresses, valid = rows + column[None, :], is_row[:, None] & (column < size)[None, :]
    else:
        addresses, valid = rows + column[None, None, :], is_row[:, :, None] & (column < size)[None, None, :]
    return tl.load(addresses, mask=valid, other=0.0)


@triton.jit
def dot(left, right, total=None):
    if _INTERPRETED:  # it lacks bfloat16 products; float32 gives the same result
        left, right = left.to(tl.float32), right.to(tl.float32)
    return tl.dot(left, right, total, input_precision="ieee")


@triton.jit
def dot_each(left, right, total=None):
    """Batched product of (CAPTIONS, M, K) and (CAPTIONS, K, N), one per warp. A single one is shared by all warps."""
    if left.shape[0] > 1:
        total = dot(left, right, total)
    else:
        one_left = tl.reshape(left, (left.shape[1], left.shape[2]))
        one_right = tl.reshape(right, (right.shape[1], right.shape[2]))
        if total is not None:
            total = tl.reshape(total, (total.shape[1], total.shape[2]))
        total = dot(one_left, one_right, total)[None]
    return total


@triton.jit
def by_caption(x, CAPTIONS: tl.constexpr):
    """(CAPTIONS·T_PAD, columns) → (CAPTIONS, T_PAD, columns)."""
    return tl.reshape(x, (CAPTIONS, x.shape[0] // CAPTIONS, x.shape[1]))


@triton.jit
def masked(x, valid):
    return tl.where(valid[None, :], x, float("-inf"))


@triton.jit
def shares_of(x, top):
    """exp(x - top), 0 where x is -inf."""
    # If nothing is valid, any finite top avoids NaN.
    return tl.exp(x - tl.where(top == float("-inf"), 0.0, top))


@triton.jit
def softmax(x, valid, AXIS: tl.constexpr):
    """Softmax along an axis over valid entries; 0 elsewhere, and if none is valid."""
    x = tl.where(valid, x, float("-inf"))
    shares = shares_of(x, tl.max(x, AXIS, keep_dims=True))
    total = tl.sum(shares, AXIS, keep_dims=True)
    return shares / tl.where(total == 0.0, 1.0, total)


@triton.jit
def transposed(x):
    """(CAPTIONS, words, regions) → (CAPTIONS, regions, words), in the layout of a product's result.

    Later products then find it in registers in the layout they need; the result of `permute` alone would be converted
    each time. Multiplying by 1 and adding to zero keeps values exact.
    """
    word = tl.arange(0, x.shape[1])
    one = word[:, None] == word[None, :]
    if _INTERPRETED:  # it does not convert True to 1 in bfloat16
        one = tl.where(one, 1.0, 0.0)
    one = tl.broadcast_to(one[None], (x.shape[0], x.shape[1], x.shape[1]))
    return dot_each(tl.permute(x, (0, 2, 1)), one.to(x.dtype)).to(x.dtype)


@triton.jit
def spread_sum(x):
    """(CAPTIONS, rows, columns) → (CAPTIONS, rows, SPREAD): each thread sums its own 2 of every 8 columns."""
    x = tl.reshape(x, (x.shape[0], x.shape[1], x.shape[2] // (2 * SPREAD), SPREAD, 2))
    return tl.sum(tl.sum(x, 4), 2)


@triton.jit
def tanh(x, DTYPE: tl.constexpr):
    """As accurate as products of this dtype: to 2e-7, or by the GPU's instruction, to 2⁻¹¹ relative to tanh."""
    if DTYPE == tl.float32 or _INTERPRETED:  # noqa: SIM300
        # where exp(2x) is 0 or infinity, this is -1 or 1
        result = 1.0 - 2.0 / (tl.exp(2.0 * x) + 1.0)
    else:
        # The packed float16 and bfloat16 forms compile to two instructions and a move: no gain.
        result = tl.inline_asm_elementwise("tanh.approx.f32 $0, $1;", "=f,f", [x], tl.float32, True, 1)
    return result
