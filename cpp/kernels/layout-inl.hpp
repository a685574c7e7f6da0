// How a state lies in memory for the products. Included once per instruction set, by kernel.cpp.

#if defined(CAAN_KERNELS_LAYOUT_INL_HPP_) == defined(HWY_TARGET_TOGGLE)
#ifdef CAAN_KERNELS_LAYOUT_INL_HPP_
#undef CAAN_KERNELS_LAYOUT_INL_HPP_
#else
#define CAAN_KERNELS_LAYOUT_INL_HPP_
#endif

#include "kernel.hpp"
#include "products-inl.hpp"

HWY_BEFORE_NAMESPACE();
namespace caan::kernels::HWY_NAMESPACE {

/// Cuts arrays off one buffer, each on a cache line of its own; without a buffer it only counts.
class Arena {
 public:
  explicit Arena(std::byte* start) : start_(start) {}

  template <class T>
  T* take(std::size_t number) {
    std::byte* at = start_ ? start_ + used_ : nullptr;
    used_ += (number * sizeof(T) + kAlignment - 1) / kAlignment * kAlignment;
    return reinterpret_cast<T*>(at);
  }

  std::size_t used() const { return used_; }

 private:
  std::byte* start_;
  std::size_t used_ = 0;
};

constexpr std::size_t up(std::size_t number, std::size_t multiple) { return (number + multiple - 1) / multiple * multiple; }

/// Columns are worked on two vectors at a time.
HWY_INLINE std::size_t block_width() { return 2 * hn::Lanes(DF()); }
HWY_INLINE std::size_t blocks_of(std::size_t columns) { return (columns + block_width() - 1) / block_width(); }

/// Floats from row to row of V and U. One vector more than needed: rows a multiple of 4 KiB apart would all claim the
/// same few lines of the first cache.
HWY_INLINE std::size_t row_stride(const Model& model) {
  return up(model.embed_dim, block_width()) + hn::Lanes(DF());
}
/// The same in words of a product's operand.
template <class F>
HWY_INLINE std::size_t word_stride(const Model& model) {
  if constexpr (F::kPerWord == 1) return row_stride(model);
  return up((model.embed_dim + F::kPerWord - 1) / F::kPerWord, hn::Lanes(DF())) + hn::Lanes(DF());
}

constexpr std::size_t words_for(std::size_t rows, std::size_t per_word) { return (rows + per_word - 1) / per_word; }

/// `V` rows; `VK` rows of words; per column block of d: VQ1 (R, width) floats, VQ2 and VQ6 (R / per word, width) words.
template <class F>
struct Image {
  Image(const Model& model, std::byte* data, std::size_t regions) : arena(data) {
    const std::size_t area = blocks_of(model.attention_dim) * block_width();
    v = arena.take<float>(regions * row_stride(model));
    vk = arena.take<std::uint32_t>(regions * word_stride<F>(model));
    vq1 = arena.take<float>(regions * area);
    vq2 = arena.take<std::uint32_t>(words_for(regions, F::kPerWord) * area);
    vq6 = arena.take<std::uint32_t>(words_for(regions, F::kPerWord) * area);
  }
  Arena arena;
  float* v;
  std::uint32_t* vk;
  float* vq1;
  std::uint32_t* vq2;
  std::uint32_t* vq6;
};

/// `U` rows of floats and of words; per column block: UQ4 (T, width) floats, UQ3 and UQ5 (T / per word, width) words.
template <class F>
struct Caption {
  Caption(const Model& model, std::byte* data, std::size_t words) : arena(data) {
    const std::size_t area = blocks_of(model.attention_dim) * block_width();
    u = arena.take<float>(words * row_stride(model));
    // One float is one word: both are the same rows then.
    u_words = F::kPerWord == 1 ? reinterpret_cast<std::uint32_t*>(u)
                               : arena.take<std::uint32_t>(words * word_stride<F>(model));
    uq3 = arena.take<std::uint32_t>(words_for(words, F::kPerWord) * area);
    uq4 = arena.take<float>(words * area);
    uq5 = arena.take<std::uint32_t>(words_for(words, F::kPerWord) * area);
  }
  Arena arena;
  float* u;
  std::uint32_t* u_words;
  std::uint32_t* uq3;
  float* uq4;
  std::uint32_t* uq5;
};

/// bfloat16's bits in the upper half of a float's, rounded to nearest even; NaN stays NaN.
HWY_INLINE VU rounded_to_bfloat16(VF x) {
  const DU du;
  const VU bits = hn::BitCast(du, x);
  const VU odd = hn::And(hn::ShiftRight<16>(bits), hn::Set(du, 1u));
  const VU rounded = hn::Add(bits, hn::Add(odd, hn::Set(du, 0x7FFFu)));
  // A NaN's bits could carry over into infinity's or the sign.
  return hn::IfThenElse(hn::RebindMask(du, hn::IsNaN(x)), hn::Set(du, 0x7FC00000u), rounded);
}

/// Two rows as words of two bfloat16.
HWY_INLINE VU paired(VF even, VF odd) {
  const DU du;
  return hn::Or(hn::ShiftRight<16>(rounded_to_bfloat16(even)),
                hn::And(rounded_to_bfloat16(odd), hn::Set(du, 0xFFFF0000u)));
}

/// A vector of a stored row, with zeros beyond its `left` numbers.
HWY_INLINE VF load_stored(const float* from, std::size_t left) {
  const DF d;
  return left >= hn::Lanes(d) ? hn::LoadU(d, from) : hn::LoadN(d, from, left);
}
HWY_INLINE VF load_stored(const hwy::float16_t* from, std::size_t left) {
  const DF d;
  const hn::Rebind<hwy::float16_t, DF> half;
  return hn::PromoteTo(d, left >= hn::Lanes(d) ? hn::LoadU(half, from) : hn::LoadN(half, from, left));
}

/// Rows of floats; `step` numbers from row to row of the source.
template <class T>
HWY_INLINE void pack_rows(const T* from, std::size_t step, std::size_t rows, std::size_t columns, float* to,
                          std::size_t stride) {
  const DF d;
  for (std::size_t i = 0; i < rows; ++i) {
    std::size_t j = 0;
    for (; j < columns; j += hn::Lanes(d)) {
      hn::Store(load_stored(from + i * step + j, columns - j), d, to + i * stride + j);
    }
    for (; j < stride; j += hn::Lanes(d)) hn::Store(hn::Zero(d), d, to + i * stride + j);
  }
}

/// Rows of words along the columns.
template <class F, class T>
HWY_INLINE void pack_word_rows(const T* from, std::size_t step, std::size_t rows, std::size_t columns,
                               std::uint32_t* to, std::size_t stride) {
  const DF d;
  const DU du;
  const std::size_t lanes = hn::Lanes(d);
  for (std::size_t i = 0; i < rows; ++i) {
    const T* row = from + i * step;
    for (std::size_t j = 0; j < columns; j += F::kPerWord * lanes) {
      if constexpr (F::kPerWord == 1) {
        hn::Store(hn::BitCast(du, load_stored(row + j, columns - j)), du, to + i * stride + j);
      } else {
        const VF low = load_stored(row + j, columns - j);
        const VF high = columns > j + lanes ? load_stored(row + j + lanes, columns - j - lanes) : hn::Zero(d);
        // Lane k holds columns k and k + lanes: any order will do, if both operands have it.
        hn::Store(paired(low, high), du, to + i * stride + j / 2);
      }
    }
  }
}

/// (rows, columns) floats → (block, rows, width).
template <class T>
HWY_INLINE void pack_blocks(const T* from, std::size_t step, std::size_t rows, std::size_t columns, float* to) {
  const DF d;
  const std::size_t width = block_width();
  for (std::size_t i = 0; i < rows; ++i) {
    float* block = to + i * width;
    for (std::size_t j = 0; j < columns; j += width, block += rows * width) {
      hn::Store(load_stored(from + i * step + j, columns - j), d, block);
      const std::size_t next = j + hn::Lanes(d);
      hn::Store(next < columns ? load_stored(from + i * step + next, columns - next) : hn::Zero(d), d,
                block + hn::Lanes(d));
    }
  }
}

/// (rows, columns) → (block, rows / per word, width) of words along the rows.
template <class F, class T>
HWY_INLINE void pack_word_blocks(const T* from, std::size_t step, std::size_t rows, std::size_t columns,
                                 std::uint32_t* to) {
  const DF d;
  const DU du;
  const std::size_t lanes = hn::Lanes(d);
  const std::size_t width = block_width();
  const std::size_t height = words_for(rows, F::kPerWord);
  const auto load = [&](std::size_t i, std::size_t j) HWY_ATTR {
    return i < rows && j < columns ? load_stored(from + i * step + j, columns - j) : hn::Zero(d);
  };
  for (std::size_t i = 0; i < height; ++i) {
    std::uint32_t* block = to + i * width;
    for (std::size_t j = 0; j < columns; j += width, block += height * width) {
      for (std::size_t half = 0; half < 2; ++half) {
        const std::size_t column = j + half * lanes;
        if constexpr (F::kPerWord == 1) {
          hn::Store(hn::BitCast(du, load(i, column)), du, block + half * lanes);
        } else {
          hn::Store(paired(load(2 * i, column), load(2 * i + 1, column)), du, block + half * lanes);
        }
      }
    }
  }
}

template <class F, class T>
HWY_INLINE void pack_image_of(const Model& model, const T* rows, std::size_t regions, std::byte* packed) {
  const std::size_t dim = model.embed_dim;
  const std::size_t wide = model.attention_dim;
  const std::size_t step = 2 * dim + 3 * wide;
  const Image<F> image(model, packed, regions);
  pack_rows(rows, step, regions, dim, image.v, row_stride(model));
  pack_word_rows<F>(rows + dim, step, regions, dim, image.vk, word_stride<F>(model));
  pack_blocks(rows + 2 * dim, step, regions, wide, image.vq1);
  pack_word_blocks<F>(rows + 2 * dim + wide, step, regions, wide, image.vq2);
  pack_word_blocks<F>(rows + 2 * dim + 2 * wide, step, regions, wide, image.vq6);
}

template <class F, class T>
HWY_INLINE void pack_caption_of(const Model& model, const T* rows, std::size_t words, std::byte* packed) {
  const std::size_t dim = model.embed_dim;
  const std::size_t wide = model.attention_dim;
  const std::size_t step = dim + 3 * wide;
  const Caption<F> caption(model, packed, words);
  pack_rows(rows, step, words, dim, caption.u, row_stride(model));
  if constexpr (F::kPerWord > 1) pack_word_rows<F>(rows, step, words, dim, caption.u_words, word_stride<F>(model));
  pack_word_blocks<F>(rows + dim, step, words, wide, caption.uq3);
  pack_blocks(rows + dim + wide, step, words, wide, caption.uq4);
  pack_word_blocks<F>(rows + dim + 2 * wide, step, words, wide, caption.uq5);
}

}  // namespace caan::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
