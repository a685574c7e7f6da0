// The matrix products of a pair, in register tiles. Included once per instruction set, by kernel.cpp.
//
// A "word" is 32 bits of a product's operand along its inner dimension: one float, or two bfloat16 of consecutive
// indices, so that every loop below is the same for both.

#if defined(CAAN_KERNELS_PRODUCTS_INL_HPP_) == defined(HWY_TARGET_TOGGLE)
#ifdef CAAN_KERNELS_PRODUCTS_INL_HPP_
#undef CAAN_KERNELS_PRODUCTS_INL_HPP_
#else
#define CAAN_KERNELS_PRODUCTS_INL_HPP_
#endif

#include <hwy/cache_control.h>
#include <hwy/highway.h>

#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "kernel.hpp"
#include "sums-inl.hpp"

// With bfloat16 products, tanh is computed in 16-bit fixed point.
#undef CAAN_FIXED_TANH
#if HWY_ARCH_X86 && HWY_NATIVE_DOT_BF16
#define CAAN_FIXED_TANH 1
#else
#define CAAN_FIXED_TANH 0
#endif

HWY_BEFORE_NAMESPACE();
namespace caan::kernels::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using DF = hn::ScalableTag<float>;
using DU = hn::ScalableTag<std::uint32_t>;
using VF = hn::Vec<DF>;
using VU = hn::Vec<DU>;

// Tiles as large as the register file allows: 32 registers with AVX-512 and on ARM, else 16.
#if HWY_TARGET <= HWY_AVX3 || HWY_ARCH_ARM_A64
constexpr std::size_t kTileRows = 14;
constexpr std::size_t kDotRows = 6;
#elif HWY_TARGET == HWY_AVX2
constexpr std::size_t kTileRows = 6;
constexpr std::size_t kDotRows = 3;
#else
constexpr std::size_t kTileRows = 5;
constexpr std::size_t kDotRows = 2;
#endif
constexpr std::size_t kDotColumns = 4;

/// bfloat16's bits in the upper half of a float's, rounded to nearest even; NaN stays NaN.
HWY_INLINE VU rounded_to_bfloat16(VF x) {
  const DU du;
  const VU bits = hn::BitCast(du, x);
  const VU odd = hn::And(hn::ShiftRight<16>(bits), hn::Set(du, 1u));
  const VU rounded = hn::Add(bits, hn::Add(odd, hn::Set(du, 0x7FFFu)));
  // A NaN's bits could carry over into infinity's or the sign.
  return hn::IfThenElse(hn::RebindMask(du, hn::IsNaN(x)), hn::Set(du, 0x7FC00000u), rounded);
}

#if CAAN_FIXED_TANH
/// 16-bit fixed point, from -4 to just below 4, saturating. Two vectors' numbers times kOne, in an order common to all.
struct Fixed16 {
  static constexpr std::size_t kPerWord = 1;  // rows, as in the others: its two numbers belong to one row
  static constexpr float kOne = 8192.0f;
  using D = hn::Repartition<std::int16_t, DF>;

  static HWY_INLINE hn::Vec<D> of(VF left, VF right) {
    // Numbers below the 32-bit range, and NaN, become the minimum; larger ones must not.
    const hn::RebindToSigned<DF> di;
    const VF most = hn::Set(DF(), 32767.0f);
    return hn::ReorderDemote2To(D(), hn::ConvertInRangeTo(di, hn::Min(most, left)),
                                hn::ConvertInRangeTo(di, hn::Min(most, right)));
  }
};

/// Interleaves lane i of the first half with lane i of the second.
HWY_ALIGN constexpr std::uint16_t kSideBySide[32] = {0, 16, 1, 17, 2,  18, 3,  19, 4,  20, 5,  21, 6,  22, 7,  23,
                                                     8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
#endif

/// Two rows as words of two bfloat16 each.
HWY_INLINE VU paired(VF even, VF odd) {
  const DU du;
#if HWY_ARCH_X86 && HWY_NATIVE_DOT_BF16
  const hn::Repartition<hwy::bfloat16_t, DF> db;
  const hn::Repartition<std::uint16_t, DF> d16;
  const auto halves = hn::BitCast(d16, hn::OrderedDemote2To(db, even, odd));
  return hn::BitCast(du, hn::TableLookupLanes(halves, hn::SetTableIndices(d16, kSideBySide)));
#else
  return hn::Or(hn::ShiftRight<16>(rounded_to_bfloat16(even)),
                hn::And(rounded_to_bfloat16(odd), hn::Set(du, 0xFFFF0000u)));
#endif
}

// Numbers not multiplied as words are "plain": two vectors of columns at a time, by `load_plain`.
struct Float32 {
  static constexpr std::size_t kPerWord = 1;
  using Argument = Float32;  // type of tanh's argument
  static HWY_INLINE void load_plain(const std::uint32_t* at, VF& left, VF& right) {
    const DF d;
    const DU du;
    left = hn::BitCast(d, hn::Load(du, at));
    right = hn::BitCast(d, hn::Load(du, at + hn::Lanes(d)));
  }
  static HWY_INLINE VF multiply_add(VU a, VU b, VF sum) {
    const DF d;
    return hn::MulAdd(hn::BitCast(d, a), hn::BitCast(d, b), sum);
  }
};

struct BFloat16 {
  static constexpr std::size_t kPerWord = 2;
#if CAAN_FIXED_TANH
  using Argument = Fixed16;
#else
  using Argument = Float32;
#endif
  /// One vector holds both: the first's numbers are the lower halves of the lanes.
  static HWY_INLINE void load_plain(const std::uint32_t* at, VF& left, VF& right) {
    const DF d;
    const DU du;
    const VU both = hn::Load(du, at);
    left = hn::BitCast(d, hn::ShiftLeft<16>(both));
    right = hn::BitCast(d, hn::And(both, hn::Set(du, 0xFFFF0000u)));
  }
  static HWY_INLINE VF multiply_add(VU a, VU b, VF sum) {
    const DF d;
#if HWY_NATIVE_DOT_BF16
    const hn::Repartition<hwy::bfloat16_t, DF> db;
    VF unused = hn::Zero(d);
    return hn::ReorderWidenMulAccumulate(d, hn::BitCast(db, a), hn::BitCast(db, b), sum, unused);
#else
    const DU du;
    const VU high = hn::Set(du, 0xFFFF0000u);
    sum = hn::MulAdd(hn::BitCast(d, hn::ShiftLeft<16>(a)), hn::BitCast(d, hn::ShiftLeft<16>(b)), sum);
    return hn::MulAdd(hn::BitCast(d, hn::And(a, high)), hn::BitCast(d, hn::And(b, high)), sum);
#endif
  }
};

/// One operand pair of `accumulate`: `depth` steps, at each a broadcast word per row and two vectors of words.
struct Factor {
  const std::uint32_t* broadcast;  // (depth, rows), rows contiguous
  std::size_t broadcast_stride;
  const std::uint32_t* words;  // (depth, two vectors)
  std::size_t words_stride;
  std::size_t depth;
  std::size_t next;  // offset of the next call's words from these, prefetched meanwhile
};

/// Memory to prefetch during the products, which themselves read only from caches. Every `accumulate` fetches `pace`
/// bytes per step: fetching all at once would fill the line-fill buffers and stall the products.
struct Ahead {
  const char* at;
  const char* end;
  std::size_t pace;
};

/// Cache lines per step, up to a call's share. With wide vectors a caption takes fewer steps than an image has lines,
/// and there is no share to keep.
constexpr std::size_t kLinesAhead = kTileRows > 8 ? 2 : 1;

template <class F, std::size_t kRows>
HWY_INLINE void accumulate(const Factor& factor, VF (&left)[kRows], VF (&right)[kRows], Ahead& ahead) {
  const DU d;
  const std::uint32_t* HWY_RESTRICT broadcast = factor.broadcast;
  const std::uint32_t* HWY_RESTRICT words = factor.words;
  const char* next = ahead.at;
  const char* stop = ahead.end;
  if (kLinesAhead == 1) {
    // The last prefetched line may be beyond the end.
    const std::ptrdiff_t share = static_cast<std::ptrdiff_t>(factor.depth * ahead.pace);
    stop = next + HWY_MIN(ahead.end - next, share);
  }
  for (std::size_t k = 0; k < factor.depth; ++k) {
    const VU b0 = hn::Load(d, words);
    const VU b1 = hn::Load(d, words + hn::Lanes(d));
    hwy::Prefetch(words + factor.next);
    if (2 * sizeof(std::uint32_t) * hn::Lanes(d) > kAlignment) hwy::Prefetch(words + factor.next + hn::Lanes(d));
    CAAN_UNROLL
    for (std::size_t i = 0; i < kRows; ++i) {
      const VU a = hn::Set(d, broadcast[i]);
      left[i] = F::multiply_add(a, b0, left[i]);
      right[i] = F::multiply_add(a, b1, right[i]);
    }
    broadcast += factor.broadcast_stride;
    words += factor.words_stride;
    if (next < stop) {
      hwy::Prefetch(next);
      if (kLinesAhead > 1) hwy::Prefetch(next + kAlignment);
      next += kLinesAhead * kAlignment;
    }
  }
  ahead.at = next;
}

/// Two vectors of one row, in Out's layout.
template <class Out>
HWY_INLINE void store_row(VF left, VF right, std::uint32_t* out) {
  const DU du;
#if CAAN_FIXED_TANH
  if constexpr (std::is_same_v<Out, Fixed16>) {
    hn::Store(hn::BitCast(du, Fixed16::of(left, right)), du, out);
    return;
  }
#endif
  hn::Store(hn::BitCast(du, left), du, out);
  hn::Store(hn::BitCast(du, right), du, out + hn::Lanes(du));
}

/// kRows rows of two vectors as words of Out's.
template <class Out, std::size_t kRows>
HWY_INLINE void store_words(const VF (&left)[kRows], const VF (&right)[kRows], std::uint32_t* out, std::size_t stride) {
  CAAN_UNROLL
  for (std::size_t i = 0; i < kRows; i += Out::kPerWord, out += stride) {
    if constexpr (Out::kPerWord == 1) {
      store_row<Out>(left[i], right[i], out);
    } else {
      const DU du;
      const std::size_t odd = HWY_MIN(i + 1, kRows - 1);
      const VF none = hn::Zero(DF());
      hn::Store(paired(left[i], odd > i ? left[odd] : none), du, out);
      hn::Store(paired(right[i], odd > i ? right[odd] : none), du, out + hn::Lanes(du));
    }
  }
}

/// Words per row of a column block, plain and as tanh's argument.
template <class F>
HWY_INLINE std::size_t plain_width() {
  return 2 * hn::Lanes(DF()) / F::kPerWord;
}
template <class F>
HWY_INLINE std::size_t argument_width() {
  return 2 * hn::Lanes(DF()) / (std::is_same_v<typename F::Argument, Float32> ? 1 : 2);
}

/// out (kRows, two vectors in Out's layout) = start (the same, plain, or null: 0) + first + second.
template <class F, class Out, std::size_t kRows>
HWY_NOINLINE void tile(const std::uint32_t* start, std::uint32_t* out, std::size_t stride, const Factor& first,
                       const Factor& second, Ahead& ahead) {
  const DF d;
  VF left[kRows];
  VF right[kRows];
  CAAN_UNROLL
  for (std::size_t i = 0; i < kRows; ++i) {
    left[i] = right[i] = hn::Zero(d);
    if (start) F::load_plain(start + i * plain_width<F>(), left[i], right[i]);
  }
  accumulate<F>(first, left, right, ahead);
  accumulate<F>(second, left, right, ahead);
  store_words<Out>(left, right, out, stride);
}

template <class F, class Out, std::size_t kRows = kTileRows>
HWY_INLINE void tile_of(std::size_t rows, const std::uint32_t* start, std::uint32_t* out, std::size_t stride,
                        const Factor& first, const Factor& second, Ahead& ahead) {
  if constexpr (kRows > 0) {
    if (rows == kRows) {
      tile<F, Out, kRows>(start, out, stride, first, second, ahead);
    } else {
      tile_of<F, Out, kRows - 1>(rows, start, out, stride, first, second, ahead);
    }
  }
}

/// `tile` for any number of rows, in tiles of nearly equal height; all but the last hold whole words.
template <class F, class Out = Float32>
HWY_INLINE void product(std::size_t rows, const std::uint32_t* start, std::uint32_t* out, std::size_t stride,
                        Factor first, Factor second, Ahead& ahead) {
  constexpr std::size_t kMost = kTileRows / Out::kPerWord * Out::kPerWord;
  const std::size_t tiles = (rows + kMost - 1) / kMost;
  for (std::size_t i = 0, row = 0; i < tiles; ++i) {
    const std::size_t equal = (rows - row + tiles - i - 1) / (tiles - i);
    const std::size_t height = i + 1 < tiles ? (equal + Out::kPerWord - 1) / Out::kPerWord * Out::kPerWord : equal;
    tile_of<F, Out>(height, start ? start + row * plain_width<F>() : nullptr, out + row / Out::kPerWord * stride,
                    stride, first, second, ahead);
    first.broadcast += height;
    second.broadcast += height;
    row += height;
  }
}

/// out[i, j] = a[i] · b[j] for kRows rows of a and kColumns of b, `depth` words (whole vectors) long; out is 4 wide.
template <class F, std::size_t kRows, std::size_t kColumns>
HWY_NOINLINE void dot_tile(const std::uint32_t* a, std::size_t a_stride, const std::uint32_t* b, std::size_t b_stride,
                           std::size_t depth, float* out, std::size_t out_stride) {
  const DF d;
  const DU du;
  VF sums[kRows][kColumns];
  CAAN_UNROLL
  for (std::size_t i = 0; i < kRows; ++i) {
    CAAN_UNROLL
    for (std::size_t j = 0; j < kColumns; ++j) sums[i][j] = hn::Zero(d);
  }
  for (std::size_t k = 0; k < depth; k += hn::Lanes(d)) {
    // The smaller operand stays in registers.
    if constexpr (kColumns <= kRows) {
      VU columns[kColumns];
      CAAN_UNROLL
      for (std::size_t j = 0; j < kColumns; ++j) columns[j] = hn::Load(du, b + j * b_stride + k);
      CAAN_UNROLL
      for (std::size_t i = 0; i < kRows; ++i) {
        const VU row = hn::Load(du, a + i * a_stride + k);
        CAAN_UNROLL
        for (std::size_t j = 0; j < kColumns; ++j) sums[i][j] = F::multiply_add(row, columns[j], sums[i][j]);
      }
    } else {
      VU rows[kRows];
      CAAN_UNROLL
      for (std::size_t i = 0; i < kRows; ++i) rows[i] = hn::Load(du, a + i * a_stride + k);
      CAAN_UNROLL
      for (std::size_t j = 0; j < kColumns; ++j) {
        const VU column = hn::Load(du, b + j * b_stride + k);
        CAAN_UNROLL
        for (std::size_t i = 0; i < kRows; ++i) sums[i][j] = F::multiply_add(rows[i], column, sums[i][j]);
      }
    }
  }
  CAAN_UNROLL
  for (std::size_t i = 0; i < kRows; ++i) {
    const VF zero = hn::Zero(d);
    store_sums(d, sums[i][0], kColumns > 1 ? sums[i][1 % kColumns] : zero, kColumns > 2 ? sums[i][2 % kColumns] : zero,
               kColumns > 3 ? sums[i][3 % kColumns] : zero, out + i * out_stride);
  }
}

template <class F, std::size_t kRows, std::size_t kColumns = kDotColumns>
HWY_INLINE void dot_columns(std::size_t columns, const std::uint32_t* a, std::size_t a_stride, const std::uint32_t* b,
                            std::size_t b_stride, std::size_t depth, float* out, std::size_t out_stride) {
  if constexpr (kColumns > 0) {
    if (columns == kColumns) {
      dot_tile<F, kRows, kColumns>(a, a_stride, b, b_stride, depth, out, out_stride);
    } else {
      dot_columns<F, kRows, kColumns - 1>(columns, a, a_stride, b, b_stride, depth, out, out_stride);
    }
  }
}

template <class F, std::size_t kRows = kDotRows>
HWY_INLINE void dot_rows(std::size_t rows, std::size_t columns, const std::uint32_t* a, std::size_t a_stride,
                         const std::uint32_t* b, std::size_t b_stride, std::size_t depth, float* out,
                         std::size_t out_stride) {
  if constexpr (kRows > 0) {
    if (rows == kRows) {
      dot_columns<F, kRows>(columns, a, a_stride, b, b_stride, depth, out, out_stride);
    } else {
      dot_rows<F, kRows - 1>(rows, columns, a, a_stride, b, b_stride, depth, out, out_stride);
    }
  }
}

/// out (rows, columns) = a bᵀ; writes up to 3 columns more, so out_stride is at least `columns` rounded up to 4.
template <class F>
HWY_INLINE void dot_product(std::size_t rows, std::size_t columns, const std::uint32_t* a, std::size_t a_stride,
                            const std::uint32_t* b, std::size_t b_stride, std::size_t depth, float* out,
                            std::size_t out_stride) {
  for (std::size_t i = 0; i < rows; i += kDotRows) {
    for (std::size_t j = 0; j < columns; j += kDotColumns) {
      dot_rows<F>(HWY_MIN(kDotRows, rows - i), HWY_MIN(kDotColumns, columns - j), a + i * a_stride, a_stride,
                  b + j * b_stride, b_stride, depth, out + i * out_stride + j, out_stride);
    }
  }
}

}  // namespace caan::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
