// The score of a pair: the equations of "Context-Aware Attention Network for Image-Text Retrieval" (CVPR 2020,
// doi:10.1109/CVPR42600.2020.00359) on packed states. Included once per instruction set, by kernel.cpp.

#if defined(CAAN_KERNELS_PAIR_INL_HPP_) == defined(HWY_TARGET_TOGGLE)
#ifdef CAAN_KERNELS_PAIR_INL_HPP_
#undef CAAN_KERNELS_PAIR_INL_HPP_
#else
#define CAAN_KERNELS_PAIR_INL_HPP_
#endif

#include <cmath>

#include "layout-inl.hpp"
#include "simd_math-inl.hpp"

HWY_BEFORE_NAMESPACE();
namespace caan::kernels::HWY_NAMESPACE {

/// Captions of a run that share the last step, which reads all of V.
constexpr std::size_t kGroup = 4;

/// H is transposed in squares of this many rows.
constexpr std::size_t kSquare = 4;

// What is computed of a pair. Zv and av need Hu and A alone, Zu and au need Hv and B alone.
struct ForScores {
  static constexpr bool kAv = true, kAu = true;
};
struct ForRegions {
  static constexpr bool kAv = true, kAu = false;
};
struct ForWords {
  static constexpr bool kAv = false, kAu = true;
};

/// A pair's data from attention to pooling. Matrices are (rows, padded columns) of words along the rows.
template <class F>
struct Attention {
  Attention(std::byte* data, std::size_t regions, std::size_t words)
      : arena(data), t_stride(up(words, block_width())), r_stride(up(regions, block_width())) {
    hu = arena.take<std::uint32_t>(words_for(words, F::kPerWord) * r_stride);
    a = arena.take<std::uint32_t>(words_for(words, F::kPerWord) * r_stride);
    hv = arena.take<std::uint32_t>(words_for(regions, F::kPerWord) * t_stride);
    a_r = arena.take<std::uint32_t>(words_for(regions, F::kPerWord) * t_stride);
    su = arena.take<std::uint32_t>(words_for(words, F::kPerWord) * t_stride);
    logits = arena.take<std::uint32_t>((regions + words) * hn::Lanes(DF()));
    spoilt = arena.take<float>(1);
  }

  Arena arena;
  std::size_t t_stride, r_stride;
  std::uint32_t *hu, *a;         // Huᵀ and Aᵀ (T, R)
  std::uint32_t *hv, *a_r, *su;  // Hv and A (R, T), Su (T, T)
  std::uint32_t* logits;         // Zv w_v and Zu w_u (R + T, lanes): Activation's sums
  float* spoilt;                 // as an image's, for H
};

/// The smallest step of fixed-point weights for which a lane's sum, two products per column block, fits 32 bits for any
/// tanh.
HWY_INLINE float weight_step(float largest_weight, const Model& model) {
  const float sum = 262000.0f / 2 / static_cast<float>(blocks_of(model.attention_dim));  // 2^31 / Fixed16::kOne
  return largest_weight / HWY_MIN(sum, 32767.0f);
}

/// One thread's memory for images of this many regions and captions of up to this many words.
template <class F>
struct Scratch {
  Scratch(const Model& model, std::byte* data, std::size_t regions, std::size_t words) : arena(data) {
    const std::size_t width = block_width();
    group_av = arena.take<std::uint32_t>(words_for(regions, F::kPerWord) * kGroup);
    group_u = arena.take<float>(kGroup * blocks_of(model.embed_dim) * width);
    divisors = arena.take<float>(kGroup);
    // They are transposed in whole squares.
    h = arena.take<float>(up(regions, kSquare) * up(words, width));
    h_t = arena.take<float>(up(words, kSquare) * up(regions, width));
    b = arena.take<std::uint32_t>(words_for(regions, F::kPerWord) * up(words, width));
    largest = arena.take<float>(up(HWY_MAX(regions, words), width));
    scale = arena.take<float>(up(HWY_MAX(regions, words), width));
    weights = arena.take<float>(up(HWY_MAX(regions, words), width));
    const std::size_t most = HWY_MAX(regions * up(words, width), words * up(regions, width));
    exps = F::kPerWord == 1 ? nullptr : arena.take<float>(most);
    x = arena.take<std::uint32_t>(words_for(words, F::kPerWord) * width);
    z = arena.take<std::uint32_t>((regions + words) * argument_width<F>());
    step_v = weight_step(model.largest_w_v, model);
    step_u = weight_step(model.largest_w_u, model);
    pair_bytes = Attention<F>(nullptr, regions, words).arena.used();
    pairs = arena.take<std::byte>(kGroup * pair_bytes);
  }

  Arena arena;
  std::uint32_t* group_av;  // of a group's pairs: av (R, kGroup), words along R
  float* group_u;           // of the group's pairs: auᵀ U (kGroup, D)
  float* divisors;          // of the group's pairs: the products of their sums
  float *h, *h_t;           // λ H (R, T) and its transpose
  std::uint32_t* b;         // B (R, T), words along R
  float *largest, *scale;   // of a softmax, per column
  float* weights;           // a pooling softmax, not yet divided by its sum
  float* exps;              // of a softmax, before they are rounded
  std::uint32_t* x;         // of one column block: Aᵀ V Q2 (T, width)
  std::uint32_t* z;         // tanh's arguments (R + T, argument width)
  float step_v, step_u;     // of w_v and w_u in fixed point
  std::size_t pair_bytes;
  std::byte* pairs;
};

/// Row i of words along the rows, from rows computed by row(i).
template <class F, class Row>
HWY_INLINE void store_word_row(std::size_t i, std::size_t rows, const Row& row, std::uint32_t* to) {
  const DU du;
  if constexpr (F::kPerWord == 1) {
    hn::Store(hn::BitCast(du, row(i)), du, to);
  } else {
    const VF even = row(2 * i);
    hn::Store(paired(even, 2 * i + 1 < rows ? row(2 * i + 1) : hn::Zero(DF())), du, to);
  }
}

/// Per column of h (rows, stride): its softmax, and the softmax divided by its norm, words along the rows; also the
/// largest value and the factor from exp(h - largest) to the latter.
template <class F>
HWY_INLINE void softmax_of_columns(const float* h, std::size_t rows, std::size_t columns, std::size_t stride,
                                   std::uint32_t* softmax, std::uint32_t* unit, const Scratch<F>& s) {
  const DF d;
  // One float is one word: nothing moves.
  float* exps = F::kPerWord == 1 ? reinterpret_cast<float*>(softmax) : s.exps;
  for (std::size_t j = 0; j < columns; j += hn::Lanes(d)) {
    VF top = hn::Load(d, h + j);
    for (std::size_t i = 1; i < rows; ++i) top = hn::Max(top, hn::Load(d, h + i * stride + j));
    VF sum = hn::Zero(d);
    VF squares = hn::Zero(d);
    for (std::size_t i = 0; i < rows; ++i) {
      const VF e = exp_of_negative(hn::Sub(hn::Load(d, h + i * stride + j), top));
      hn::Store(e, d, exps + i * stride + j);
      sum = hn::Add(sum, e);
      squares = hn::MulAdd(e, e, squares);
    }
    // A softmax over n numbers has a norm of at least 1/sqrt(n): no guard needed.
    const VF to_softmax = hn::Div(hn::Set(d, 1.0f), sum);
    const VF to_unit = hn::Div(hn::Set(d, 1.0f), hn::Sqrt(squares));
    hn::Store(top, d, s.largest + j);
    hn::Store(to_unit, d, s.scale + j);
    for (std::size_t i = 0; i < words_for(rows, F::kPerWord); ++i) {
      const auto times = [&](VF factor) HWY_ATTR {
        return [=](std::size_t row) HWY_ATTR { return hn::Mul(hn::Load(d, exps + row * stride + j), factor); };
      };
      store_word_row<F>(i, rows, times(to_unit), unit + i * stride + j);
      store_word_row<F>(i, rows, times(to_softmax), softmax + i * stride + j);
    }
  }
}

/// The transpose of a square of kSquare rows.
HWY_INLINE void transpose_square(const float* from, std::size_t from_stride, float* to, std::size_t to_stride) {
  const hn::CappedTag<float, kSquare> d;
  const auto a = hn::LoadU(d, from), b = hn::LoadU(d, from + from_stride);
  const auto c = hn::LoadU(d, from + 2 * from_stride), e = hn::LoadU(d, from + 3 * from_stride);
  const auto ac = hn::InterleaveLower(d, a, c), be = hn::InterleaveLower(d, b, e);
  const auto ac_upper = hn::InterleaveUpper(d, a, c), be_upper = hn::InterleaveUpper(d, b, e);
  hn::StoreU(hn::InterleaveLower(d, ac, be), d, to);
  hn::StoreU(hn::InterleaveUpper(d, ac, be), d, to + to_stride);
  hn::StoreU(hn::InterleaveLower(d, ac_upper, be_upper), d, to + 2 * to_stride);
  hn::StoreU(hn::InterleaveUpper(d, ac_upper, be_upper), d, to + 3 * to_stride);
}

/// NaN if any of these numbers is, or is infinite; else 0.
HWY_INLINE float nan_or_zero(const float* numbers, std::size_t number) {
  const DF d;
  VF spoilt = hn::Zero(d);
  for (std::size_t j = 0; j < number; j += hn::Lanes(d)) {
    spoilt = hn::MulAdd(hn::Zero(d), hn::LoadN(d, numbers + j, number - j), spoilt);
  }
  return hn::ReduceSum(d, spoilt);
}

/// H = tanh(V K Uᵀ), its softmaxes both ways, and Su.
template <class F, class Wanted>
HWY_INLINE void attend(const Model& model, const Image<F>& image, std::size_t regions, const Caption<F>& caption,
                       std::size_t words, const Scratch<F>& s, const Attention<F>& pair, Ahead& ahead) {
  const DF d;
  const DU du;
  const std::size_t stride = row_stride<F>(model);
  const std::size_t depth = up(model.embed_dim, block_width()) / F::kPerWord;
  dot_product<F>(regions, words, image.vk, stride, caption.u, stride, depth, s.h, pair.t_stride);
  for (std::size_t i = 0; i < regions; i += kSquare) {
    for (std::size_t j = 0; j < words; j += hn::Lanes(d)) {
      float* at = s.h + i * pair.t_stride + j;
      VF x[kSquare];
      CAAN_UNROLL
      for (std::size_t k = 0; k < kSquare; ++k) x[k] = hn::Load(d, at + k * pair.t_stride);
      scaled_tanh(x, model.attention_scale);
      CAAN_UNROLL
      for (std::size_t k = 0; k < kSquare; ++k) hn::Store(x[k], d, at + k * pair.t_stride);
    }
    for (std::size_t j = 0; Wanted::kAv && j < words; j += kSquare) {
      transpose_square(s.h + i * pair.t_stride + j, pair.t_stride, s.h_t + j * pair.r_stride + i, pair.r_stride);
    }
  }

  if constexpr (Wanted::kAv) {
    softmax_of_columns(s.h_t, words, regions, pair.r_stride, pair.hu, pair.a, s);
    for (std::size_t j = 0; j < words; j += hn::Lanes(d)) {
      const auto row = [&](std::size_t i) HWY_ATTR {
        const VF x = hn::Sub(hn::Load(d, s.h + i * pair.t_stride + j), hn::Set(d, s.largest[i]));
        return hn::Mul(exp_of_negative(x), hn::Set(d, s.scale[i]));
      };
      for (std::size_t i = 0; i < words_for(regions, F::kPerWord); ++i) {
        store_word_row<F>(i, regions, row, pair.a_r + i * pair.t_stride + j);
      }
    }
  }

  if constexpr (Wanted::kAu) {
    softmax_of_columns(s.h, regions, words, pair.t_stride, pair.hv, s.b, s);
    for (std::size_t j = 0; j < words; j += block_width()) {
      const std::size_t height = words_for(regions, F::kPerWord);
      product<F, F>(words, nullptr, pair.su + j, pair.t_stride, {s.b, pair.t_stride, s.b + j, pair.t_stride, height, 0},
                    {}, ahead);
    }
  }
  // A NaN in H makes a NaN of the last softmax's scale.
  *pair.spoilt = nan_or_zero(s.scale, Wanted::kAu ? words : regions);
  for (std::size_t i = 0; i < regions + words; ++i) hn::Store(hn::Zero(du), du, pair.logits + i * hn::Lanes(du));
}

/// How tanh(z) w is added to the logits: `add` adds rows of a column block, z (rows, argument width), to sums
/// (rows, lanes); kRows is its preferred number of rows.
template <class Argument>
struct Activation;

/// Sums of -tanh(z) w / 2, or of that plus w / 2: a pooling softmax ignores a constant added to all logits.
template <>
struct Activation<Float32> {
  static constexpr std::size_t kRows = kTileRows > 8 ? 4 : 2;

  HWY_INLINE Activation(const float* w, float /*step*/)
      : left(hn::Load(DF(), w)), right(hn::Load(DF(), w + hn::Lanes(DF()))) {}

  template <std::size_t kNumber>
  HWY_INLINE void add(const std::uint32_t* z, std::uint32_t* sums) const {
    const DF d;
    const DU du;
    const std::size_t lanes = hn::Lanes(d);
    VF x[2 * kNumber];
    CAAN_UNROLL
    for (std::size_t i = 0; i < 2 * kNumber; ++i) x[i] = hn::BitCast(d, hn::Load(du, z + i * lanes));
    half_complement_of_tanh(x);
    CAAN_UNROLL
    for (std::size_t i = 0; i < kNumber; ++i) {
      const VF sum = hn::BitCast(d, hn::Load(du, sums + i * lanes));
      const VF more = hn::MulAdd(x[2 * i], left, hn::MulAdd(x[2 * i + 1], right, sum));
      hn::Store(hn::BitCast(du, more), du, sums + i * lanes);
    }
  }

  static HWY_INLINE VF logits(VU sums, float /*step*/) {
    return hn::Mul(hn::Set(DF(), -2.0f), hn::BitCast(DF(), sums));
  }

  VF left, right;
};

#if CAAN_FIXED_TANH
/// Integer sums: w in steps, times tanh(z) in fixed point.
template <>
struct Activation<Fixed16> {
  static constexpr std::size_t kRows = 8;

  HWY_INLINE Activation(const float* w, float step) {
    const DF d;
    const VF steps = hn::Set(d, 1.0f / step);
    weights = hn::ReorderDemote2To(Fixed16::D(), hn::NearestInt(hn::Mul(steps, hn::Load(d, w))),
                                   hn::NearestInt(hn::Mul(steps, hn::Load(d, w + hn::Lanes(d)))));
  }

  template <std::size_t kNumber>
  HWY_INLINE void add(const std::uint32_t* z, std::uint32_t* sums) const {
    const DU du;
    const Fixed16::D d16;
    const hn::RebindToSigned<DF> di;
    const std::size_t lanes = hn::Lanes(du);
    hn::Vec<Fixed16::D> x[kNumber];
    CAAN_UNROLL
    for (std::size_t i = 0; i < kNumber; ++i) x[i] = hn::BitCast(d16, hn::Load(du, z + i * lanes));
    fixed_tanh(x);
    auto unused = hn::Zero(di);
    CAAN_UNROLL
    for (std::size_t i = 0; i < kNumber; ++i) {
      const auto sum = hn::BitCast(di, hn::Load(du, sums + i * lanes));
      const auto more = hn::ReorderWidenMulAccumulate(di, x[i], weights, sum, unused);
      hn::Store(hn::BitCast(du, more), du, sums + i * lanes);
    }
  }

  static HWY_INLINE VF logits(VU sums, float step) {
    const hn::RebindToSigned<DF> di;
    return hn::Mul(hn::Set(DF(), step / Fixed16::kOne), hn::ConvertTo(DF(), hn::BitCast(di, sums)));
  }

  hn::Vec<Fixed16::D> weights;
};
#endif

template <class F>
HWY_INLINE void activate(const std::uint32_t* z, std::size_t rows, const float* w, float step, std::uint32_t* sums) {
  using A = Activation<typename F::Argument>;
  const A activation(w, step);
  const std::size_t width = argument_width<F>();
  const std::size_t lanes = hn::Lanes(DF());
  std::size_t i = 0;
  for (; i + A::kRows <= rows; i += A::kRows) {
    activation.template add<A::kRows>(z + width * i, sums + lanes * i);
  }
  for (; i < rows; ++i) activation.template add<1>(z + width * i, sums + lanes * i);
}

/// A column block of Zv = tanh(V Q1 + A (Aᵀ V Q2) + Hu U Q3) and Zu = tanh(U Q4 + Su U Q5 + Hvᵀ V Q6), to the logits.
template <class F, class Wanted>
HWY_INLINE void contextualize(const Model& model, const Image<F>& image, std::size_t regions, const Caption<F>& caption,
                              std::size_t words, const Scratch<F>& s, const Attention<F>& pair, std::size_t block,
                              Ahead& ahead) {
  const std::size_t width = block_width();
  const std::size_t r_words = words_for(regions, F::kPerWord);
  const std::size_t t_words = words_for(words, F::kPerWord);
  const std::size_t of_image = r_words * width;
  const std::size_t of_caption = t_words * width;
  const std::size_t z_width = argument_width<F>();
  std::uint32_t* z_u = s.z + regions * z_width;
  using Argument = typename F::Argument;
  if constexpr (Wanted::kAv) {
    product<F, F>(words, nullptr, s.x, width,
                  {pair.a_r, pair.t_stride, image.vq2 + block * of_image, width, r_words, of_image}, {}, ahead);
    product<F, Argument>(regions, image.vq1 + block * regions * width / F::kPerWord, s.z, z_width,
                         {pair.a, pair.r_stride, s.x, width, t_words, 0},
                         {pair.hu, pair.r_stride, caption.uq3 + block * of_caption, width, t_words, of_caption}, ahead);
  }
  if constexpr (Wanted::kAu) {
    product<F, Argument>(words, caption.uq4 + block * words * width / F::kPerWord, z_u, z_width,
                         {pair.su, pair.t_stride, caption.uq5 + block * of_caption, width, t_words, of_caption},
                         {pair.hv, pair.t_stride, image.vq6 + block * of_image, width, r_words, of_image}, ahead);
  }
  if constexpr (Wanted::kAv) activate<F>(s.z, regions, model.w_v + block * width, s.step_v, pair.logits);
  if constexpr (Wanted::kAu) {
    activate<F>(z_u, words, model.w_u + block * width, s.step_u, pair.logits + regions * hn::Lanes(DF()));
  }
}

/// Approximate number of steps of a pair's `contextualize`.
template <class F>
HWY_INLINE std::size_t steps_of(const Model& model, std::size_t regions, std::size_t words) {
  const std::size_t r_words = words_for(regions, F::kPerWord);
  const std::size_t t_words = words_for(words, F::kPerWord);
  const std::size_t of_x_and_z_u = words_for(words, kTileRows) * (2 * r_words + t_words);
  const std::size_t of_z_v = words_for(regions, kTileRows) * 2 * t_words;
  return blocks_of(model.attention_dim) * (of_x_and_z_u + of_z_v);
}

/// exp(logit - largest) of each row's logit, the sum of its lanes; returns their sum.
template <class F>
HWY_INLINE float pooling_weights(const std::uint32_t* sums, std::size_t rows, float step, float* weights) {
  const DF d;
  const std::size_t lanes = hn::Lanes(d);
  const std::size_t padded = up(rows, lanes);
  VF top = hn::Set(d, -HUGE_VALF);
  for (std::size_t i = 0; i < rows; ++i) {
    weights[i] = hn::ReduceSum(d, Activation<typename F::Argument>::logits(hn::Load(DU(), sums + i * lanes), step));
  }
  for (std::size_t i = rows; i < padded; ++i) weights[i] = -HUGE_VALF;
  for (std::size_t i = 0; i < padded; i += lanes) top = hn::Max(top, hn::Load(d, weights + i));
  top = hn::MaxOfLanes(d, top);
  VF sum = hn::Zero(d);
  for (std::size_t i = 0; i < padded; i += lanes) {
    const VF e = exp_of_negative(hn::Sub(hn::Load(d, weights + i), top));
    hn::Store(e, d, weights + i);
    sum = hn::Add(sum, e);
  }
  return hn::ReduceSum(d, sum);
}

/// `numbers` as words, in place, followed by zeros up to a whole vector.
template <class F>
HWY_INLINE const std::uint32_t* consecutive_words(float* numbers, std::size_t number) {
  const auto words = reinterpret_cast<std::uint32_t*>(numbers);
  if constexpr (F::kPerWord > 1) {
    const DF d;
    for (std::size_t i = 0; i < words_for(number, F::kPerWord); i += hn::Lanes(d)) {
      VF even, odd;
      hn::LoadInterleaved2(d, numbers + 2 * i, even, odd);
      hn::Store(paired(even, odd), DU(), words + i);
    }
  }
  return words;
}

/// auᵀ U, kWide column blocks at a time.
template <class F, std::size_t kWide>
HWY_INLINE std::size_t pool_words(const float* au, const std::uint32_t* u, std::size_t words, std::size_t stride,
                                  std::size_t block, std::size_t end, float* pooled) {
  const DF d;
  const std::size_t width = block_width();
  for (; block + kWide <= end; block += kWide) {
    VF left[kWide], right[kWide];
    CAAN_UNROLL
    for (std::size_t j = 0; j < kWide; ++j) left[j] = right[j] = hn::Zero(d);
    for (std::size_t i = 0; i < words; ++i) {
      const VF weight = hn::Set(d, au[i]);
      CAAN_UNROLL
      for (std::size_t j = 0; j < kWide; ++j) {
        VF first, second;
        F::load_plain(u + i * stride + (block + j) * width / F::kPerWord, first, second);
        left[j] = hn::MulAdd(weight, first, left[j]);
        right[j] = hn::MulAdd(weight, second, right[j]);
      }
    }
    CAAN_UNROLL
    for (std::size_t j = 0; j < kWide; ++j) {
      hn::Store(left[j], d, pooled + (block + j) * width);
      hn::Store(right[j], d, pooled + (block + j) * width + hn::Lanes(d));
    }
  }
  return block;
}

/// One row of `Weights`, if wanted.
HWY_INLINE void write_weights(const float* weights, std::size_t number, float divisor, float* rows, std::size_t stride,
                              std::size_t row) {
  if (rows == nullptr) return;
  for (std::size_t i = 0; i < number; ++i) rows[row * stride + i] = weights[i] / divisor;
}

/// av and au of one of a group's pairs, and auᵀ U; the divisors are in `group.divisors`.
template <class F, class Wanted>
HWY_INLINE void pool_caption(const Model& model, const Image<F>& image, std::size_t regions, const Caption<F>& caption,
                             std::size_t words, const Scratch<F>& s, const Attention<F>& pair, std::size_t member,
                             const Weights& written) {
  const float spoilt = *image.spoilt + *caption.spoilt + *pair.spoilt;
  float of_av = 1;
  if constexpr (Wanted::kAv) {
    of_av = pooling_weights<F>(pair.logits, regions, s.step_v, s.weights);
    write_weights(s.weights, regions, of_av + spoilt, written.av, written.av_stride, member);
    if constexpr (Wanted::kAu) {
      const std::uint32_t* av = consecutive_words<F>(s.weights, regions);
      for (std::size_t i = 0; i < words_for(regions, F::kPerWord); ++i) s.group_av[i * kGroup + member] = av[i];
    }
  }
  if constexpr (Wanted::kAu) {
    const float of_au = pooling_weights<F>(pair.logits + regions * hn::Lanes(DF()), words, s.step_u, s.weights);
    write_weights(s.weights, words, of_au + spoilt, written.au, written.au_stride, member);
    s.divisors[member] = of_av * of_au + spoilt;
  }
  if constexpr (Wanted::kAv && Wanted::kAu) {
    const std::size_t end = blocks_of(model.embed_dim);
    float* pooled = s.group_u + member * end * block_width();
    const std::size_t done = pool_words<F, 4>(s.weights, caption.u, words, row_stride<F>(model), 0, end, pooled);
    pool_words<F, 1>(s.weights, caption.u, words, row_stride<F>(model), done, end, pooled);
  }
}

/// (avᵀ V) · (auᵀ U) of all pairs of a group: V is read once.
template <class F>
HWY_INLINE void pool_group(const Model& model, const Image<F>& image, std::size_t regions, const Scratch<F>& s,
                           std::size_t number, float* scores, Ahead& ahead) {
  const DF d;
  const std::size_t width = block_width();
  const std::size_t end = blocks_of(model.embed_dim);
  VF sums[kGroup];
  for (VF& sum : sums) sum = hn::Zero(d);
  const std::size_t r_words = words_for(regions, F::kPerWord);
  for (std::size_t block = 0; block < end; ++block) {
    VF left[kGroup], right[kGroup];
    CAAN_UNROLL
    for (std::size_t i = 0; i < kGroup; ++i) left[i] = right[i] = hn::Zero(d);
    accumulate<F>({s.group_av, kGroup, image.v + block * r_words * width, width, r_words, r_words * width}, left, right,
                  ahead);
    CAAN_UNROLL
    for (std::size_t i = 0; i < kGroup; ++i) {
      const float* u = s.group_u + (i * end + block) * width;
      sums[i] = hn::MulAdd(left[i], hn::Load(d, u), sums[i]);
      sums[i] = hn::MulAdd(right[i], hn::Load(d, u + hn::Lanes(d)), sums[i]);
    }
  }
  for (std::size_t i = 0; i < number; ++i) scores[i] = hn::ReduceSum(d, sums[i]) / s.divisors[i];
}

/// Scores of up to kGroup captions with one image, and the weights that are written; without av or au no scores.
template <class F, class Wanted>
HWY_INLINE void score_group(const Model& model, const Image<F>& image, std::size_t regions, const Packed* captions,
                            std::size_t number, std::byte* scratch, const Weights& weights, float* scores,
                            Ahead ahead) {
  // In float32 an image and a caption fill the L2 cache: column block by column block, captions side by side read the
  // image once. In bfloat16 they fit, and scoring one caption after the other keeps its matrices in the L1 cache. The
  // same holds if vectors are short, and those matrices larger than the image's part of a column block.
  constexpr std::size_t kTogether = F::kPerWord == 1 && hn::MaxLanes(DF()) >= 16 ? kGroup : 1;
  std::size_t longest = 0;
  for (std::size_t i = 0; i < number; ++i) longest = HWY_MAX(longest, captions[i].length);
  const Scratch<F> s(model, scratch, regions, longest);
  const auto each = [&](std::size_t first, auto work) HWY_ATTR {
    for (std::size_t i = first; i < HWY_MIN(first + kTogether, number); ++i) {
      const std::size_t words = captions[i].length;
      const Caption<F> caption(model, const_cast<std::byte*>(captions[i].data), words);
      work(i, caption, words, Attention<F>(s.pairs + i * s.pair_bytes, regions, words));
    }
  };
  for (std::size_t first = 0; first < number; first += kTogether) {
    each(first, [&](std::size_t, const Caption<F>& caption, std::size_t words, const Attention<F>& pair)
                    HWY_ATTR { attend<F, Wanted>(model, image, regions, caption, words, s, pair, ahead); });
    for (std::size_t block = 0; block < blocks_of(model.attention_dim); ++block) {
      each(first, [&](std::size_t, const Caption<F>& caption, std::size_t words, const Attention<F>& pair) HWY_ATTR {
        contextualize<F, Wanted>(model, image, regions, caption, words, s, pair, block, ahead);
      });
    }
    each(first, [&](std::size_t i, const Caption<F>& caption, std::size_t words, const Attention<F>& pair)
                    HWY_ATTR { pool_caption<F, Wanted>(model, image, regions, caption, words, s, pair, i, weights); });
  }
  if constexpr (Wanted::kAv && Wanted::kAu) pool_group(model, image, regions, s, number, scores, ahead);
}

}  // namespace caan::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
