// Memory layout of states for the products. Included once per instruction set, by kernel.cpp.

#if defined(CAAN_KERNELS_LAYOUT_INL_HPP_) == defined(HWY_TARGET_TOGGLE)
#ifdef CAAN_KERNELS_LAYOUT_INL_HPP_
#undef CAAN_KERNELS_LAYOUT_INL_HPP_
#else
#define CAAN_KERNELS_LAYOUT_INL_HPP_
#endif

#include <cstring>

#include "kernel.hpp"
#include "products-inl.hpp"

HWY_BEFORE_NAMESPACE();
namespace caan::kernels::HWY_NAMESPACE {

/// Allocates arrays from one buffer, each aligned to a cache line; without a buffer it only counts bytes.
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

constexpr std::size_t up(std::size_t number, std::size_t multiple) {
  return (number + multiple - 1) / multiple * multiple;
}

/// Columns are processed two vectors at a time.
HWY_INLINE std::size_t block_width() { return 2 * hn::Lanes(DF()); }
HWY_INLINE std::size_t blocks_of(std::size_t columns) { return (columns + block_width() - 1) / block_width(); }

/// Row stride of VK and U in words. One vector more than needed: rows a multiple of 4 KiB apart would all map to the
/// same few lines of the L1 cache.
template <class F>
HWY_INLINE std::size_t row_stride(const Model& model) {
  return up(model.embed_dim, block_width()) / F::kPerWord + hn::Lanes(DF());
}

constexpr std::size_t words_for(std::size_t rows, std::size_t per_word) { return (rows + per_word - 1) / per_word; }

/// VK: rows; plain and word layouts are the same. Per column block: VQ1 (R, width) plain; V, VQ2 and VQ6 (R / per word,
/// width) words.
template <class F>
struct Image {
  Image(const Model& model, std::byte* data, std::size_t regions) : arena(data) {
    const std::size_t area = blocks_of(model.attention_dim) * block_width();
    v = arena.take<std::uint32_t>(words_for(regions, F::kPerWord) * blocks_of(model.embed_dim) * block_width());
    vk = arena.take<std::uint32_t>(regions * row_stride<F>(model));
    vq1 = arena.take<std::uint32_t>(regions * area / F::kPerWord);
    vq2 = arena.take<std::uint32_t>(words_for(regions, F::kPerWord) * area);
    vq6 = arena.take<std::uint32_t>(words_for(regions, F::kPerWord) * area);
    spoilt = arena.take<float>(1);
  }
  Arena arena;
  std::uint32_t *v, *vk, *vq1, *vq2, *vq6;
  float* spoilt;  // NaN if tanh's arguments aren't all finite and fixed point would lose that; else 0
};

/// U: rows. Per column block: UQ4 (T, width) plain, UQ3 and UQ5 (T / per word, width) words.
template <class F>
struct Caption {
  Caption(const Model& model, std::byte* data, std::size_t words) : arena(data) {
    const std::size_t area = blocks_of(model.attention_dim) * block_width();
    u = arena.take<std::uint32_t>(words * row_stride<F>(model));
    uq3 = arena.take<std::uint32_t>(words_for(words, F::kPerWord) * area);
    uq4 = arena.take<std::uint32_t>(words * area / F::kPerWord);
    uq5 = arena.take<std::uint32_t>(words_for(words, F::kPerWord) * area);
    spoilt = arena.take<float>(1);
  }
  Arena arena;
  std::uint32_t *u, *uq3, *uq4, *uq5;
  float* spoilt;
};

/// One of the matrices of a stored state, in its element type.
template <class T>
class Stored {
 public:
  /// rows: of a state of `matrices` matrices with `columns` columns in all; this is number `number` of them, from
  /// column `first` on.
  Stored(const void* rows, std::size_t columns, std::size_t matrices, std::size_t number, std::size_t first)
      : scale_(static_cast<const std::byte*>(rows) + number * sizeof(float)),
        from_(static_cast<const std::byte*>(rows) + (kScaled ? matrices * sizeof(float) : 0) + first * sizeof(T)),
        step_(row_bytes(kScaled ? StateType::kInt8
                        : kWide ? StateType::kFloat32
                                : StateType::kFloat16,
                        columns, matrices)) {}

  class Row {
   public:
    HWY_INLINE Row(const Stored& matrix, std::size_t i)
        : from_(reinterpret_cast<const T*>(matrix.from_ + i * matrix.step_)) {
      if constexpr (kScaled) {
        float scale;
        std::memcpy(&scale, matrix.scale_ + i * matrix.step_, sizeof scale);
        scale_ = hn::Set(DF(), scale);
      }
    }

    /// The vector of columns from j on, zero beyond the `left` that there are.
    HWY_INLINE VF load(std::size_t j, std::size_t left) const {
      const DF d;
      const hn::Rebind<T, DF> stored;
      const auto x = left >= hn::Lanes(d) ? hn::LoadU(stored, from_ + j) : hn::LoadN(stored, from_ + j, left);
      if constexpr (kScaled) {
        return hn::Mul(scale_, hn::ConvertTo(d, hn::PromoteTo(hn::RebindToSigned<DF>(), x)));
      } else if constexpr (kWide) {
        return x;
      } else {
        return hn::PromoteTo(d, x);
      }
    }

   private:
    const T* from_;
    VF scale_ = hn::Zero(DF());
  };

 private:
  static constexpr bool kScaled = std::is_same_v<T, std::int8_t>, kWide = std::is_same_v<T, float>;
  const std::byte *scale_, *from_;
  std::size_t step_;
};

/// Two vectors of columns, for `load_plain`. Any order of columns works for a product if both operands share it.
template <class F>
HWY_INLINE void store_plain(VF left, VF right, std::uint32_t* to) {
  const DU du;
  if constexpr (F::kPerWord == 1) {
    hn::Store(hn::BitCast(du, left), du, to);
    hn::Store(hn::BitCast(du, right), du, to + hn::Lanes(du));
  } else {
    hn::Store(paired(left, right), du, to);
  }
}

/// The sums that are tanh's argument, in its unit.
template <class F>
struct Summand {
  HWY_INLINE Summand() : spoilt(hn::Zero(DF())) {}

  HWY_INLINE VF operator()(VF x) {
#if CAAN_FIXED_TANH
    if constexpr (std::is_same_v<typename F::Argument, Fixed16>) {
      spoilt = hn::MulAdd(x, hn::Zero(DF()), spoilt);
      return hn::Mul(x, hn::Set(DF(), Fixed16::kOne));
    }
#endif
    return x;
  }

  /// NaN if any of them is infinite or NaN, else 0.
  HWY_INLINE float nan_or_zero() const { return hn::ReduceSum(DF(), spoilt); }

  VF spoilt;
};

struct AsItIs {
  HWY_INLINE VF operator()(VF x) { return x; }
};

/// Rows of plain numbers: with a stride of `stride` words, or in column blocks (block, rows, width).
template <class F, class T, class Change>
HWY_INLINE void pack_plain(const Stored<T>& from, std::size_t rows, std::size_t columns, std::uint32_t* to,
                           std::size_t stride, std::size_t block_step, Change& change) {
  const DF d;
  const std::size_t lanes = hn::Lanes(d);
  for (std::size_t i = 0; i < rows; ++i) {
    const typename Stored<T>::Row row(from, i);
    std::uint32_t* block = to + i * stride;
    std::size_t j = 0;
    for (; j + 2 * lanes <= columns; j += 2 * lanes, block += block_step) {
      store_plain<F>(change(row.load(j, lanes)), change(row.load(j + lanes, lanes)), block);
    }
    if (j < columns) {
      const VF right = columns > j + lanes ? row.load(j + lanes, columns - j - lanes) : hn::Zero(d);
      store_plain<F>(change(row.load(j, columns - j)), change(right), block);
    }
  }
}
template <class F, class T>
HWY_INLINE void pack_rows(const Model& model, const Stored<T>& from, std::size_t rows, std::uint32_t* to) {
  AsItIs change;
  pack_plain<F>(from, rows, model.embed_dim, to, row_stride<F>(model), plain_width<F>(), change);
}
template <class F, class T, class Change>
HWY_INLINE void pack_plain_blocks(std::size_t columns, const Stored<T>& from, std::size_t rows, std::uint32_t* to,
                                  Change& change) {
  pack_plain<F>(from, rows, columns, to, plain_width<F>(), rows * plain_width<F>(), change);
}

/// (rows, columns) → (block, rows / per word, width) of words along the rows.
template <class F, class T, class Change>
HWY_INLINE void pack_word_blocks(std::size_t columns, const Stored<T>& from, std::size_t rows, std::uint32_t* to,
                                 Change& change) {
  if constexpr (F::kPerWord == 1) {
    pack_plain_blocks<F>(columns, from, rows, to, change);
  } else {
    const DF d;
    const std::size_t lanes = hn::Lanes(d);
    const std::size_t width = block_width();
    const std::size_t height = words_for(rows, F::kPerWord);
    for (std::size_t i = 0; i < height; ++i) {
      // An odd number of rows is followed by zeros.
      const bool is_pair = 2 * i + 1 < rows;
      const typename Stored<T>::Row even(from, 2 * i), odd(from, is_pair ? 2 * i + 1 : 2 * i);
      std::uint32_t* block = to + i * width;
      for (std::size_t j = 0; j < columns; j += width, block += height * width) {
        for (std::size_t column = j; column < j + width; column += lanes) {
          const bool is_there = column < columns;
          const VF upper = is_there ? change(even.load(column, columns - column)) : hn::Zero(d);
          const VF lower = is_there && is_pair ? change(odd.load(column, columns - column)) : hn::Zero(d);
          hn::Store(paired(upper, lower), DU(), block + (column - j));
        }
      }
    }
  }
}

template <class F, class T>
HWY_INLINE void pack_image_of(const Model& model, const State& state, std::byte* packed) {
  const std::size_t dim = model.embed_dim;
  const std::size_t wide = model.attention_dim;
  const std::size_t regions = state.length;
  const auto part = [&](std::size_t number, std::size_t first) {
    return Stored<T>(state.rows, 2 * dim + 3 * wide, kImageMatrices, number, first);
  };
  const Image<F> image(model, packed, regions);
  AsItIs as_it_is;
  pack_word_blocks<F>(dim, part(0, 0), regions, image.v, as_it_is);
  pack_rows<F>(model, part(1, dim), regions, image.vk);
  Summand<F> summand;
  pack_plain_blocks<F>(wide, part(2, 2 * dim), regions, image.vq1, summand);
  pack_word_blocks<F>(wide, part(3, 2 * dim + wide), regions, image.vq2, summand);
  pack_word_blocks<F>(wide, part(4, 2 * dim + 2 * wide), regions, image.vq6, summand);
  *image.spoilt = summand.nan_or_zero();
}

template <class F, class T>
HWY_INLINE void pack_caption_of(const Model& model, const State& state, std::byte* packed) {
  const std::size_t dim = model.embed_dim;
  const std::size_t wide = model.attention_dim;
  const std::size_t words = state.length;
  const auto part = [&](std::size_t number, std::size_t first) {
    return Stored<T>(state.rows, dim + 3 * wide, kCaptionMatrices, number, first);
  };
  const Caption<F> caption(model, packed, words);
  pack_rows<F>(model, part(0, 0), words, caption.u);
  Summand<F> summand;
  pack_word_blocks<F>(wide, part(1, dim), words, caption.uq3, summand);
  pack_plain_blocks<F>(wide, part(2, dim + wide), words, caption.uq4, summand);
  pack_word_blocks<F>(wide, part(3, dim + 2 * wide), words, caption.uq5, summand);
  *caption.spoilt = summand.nan_or_zero();
}

}  // namespace caan::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
