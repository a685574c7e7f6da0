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

/// So many captions of a run share the last step, which reads all of V.
constexpr std::size_t kGroup = 4;

/// What a pair keeps from its attention to its pooling. Matrices are (rows, padded columns) of words along the rows.
template <class F>
struct Attention {
  Attention(std::byte* data, std::size_t regions, std::size_t words)
      : arena(data), t_stride(up(words, block_width())), r_stride(up(regions, block_width())) {
    hu = arena.take<std::uint32_t>(words_for(words, F::kPerWord) * r_stride);
    a = arena.take<std::uint32_t>(words_for(words, F::kPerWord) * r_stride);
    hv = arena.take<std::uint32_t>(words_for(regions, F::kPerWord) * t_stride);
    a_r = arena.take<std::uint32_t>(words_for(regions, F::kPerWord) * t_stride);
    su = arena.take<std::uint32_t>(words_for(words, F::kPerWord) * t_stride);
    logits = arena.take<float>((regions + words) * hn::Lanes(DF()));
  }

  Arena arena;
  std::size_t t_stride, r_stride;
  std::uint32_t *hu, *a;         // Huᵀ and Aᵀ (T, R)
  std::uint32_t *hv, *a_r, *su;  // Hv and A (R, T), Su (T, T)
  float* logits;                 // Zv w_v and Zu w_u (R + T, lanes)
};

/// One thread's memory for images of so many regions and captions of up to so many words.
template <class F>
struct Scratch {
  Scratch(const Model& model, std::byte* data, std::size_t regions, std::size_t words) : arena(data) {
    const std::size_t width = block_width();
    const std::size_t by_words = regions * up(words, width);
    const std::size_t by_regions = words * up(regions, width);
    group_av = arena.take<float>(regions * kGroup);
    group_u = arena.take<float>(kGroup * blocks_of(model.embed_dim) * width);
    divisors = arena.take<float>(kGroup);
    h = arena.take<float>(by_words);
    h_t = arena.take<float>(by_regions);
    b = arena.take<float>(by_words);
    largest = arena.take<float>(up(HWY_MAX(regions, words), width));
    scale = arena.take<float>(up(HWY_MAX(regions, words), width));
    weights = arena.take<float>(up(HWY_MAX(regions, words), width));
    // The largest of those that are calculated there: Su has a row per word.
    const std::size_t most = HWY_MAX(by_words, HWY_MAX(by_regions, words * up(words, width)));
    for (float*& matrix : floats) matrix = F::kPerWord == 1 ? nullptr : arena.take<float>(most);
    x = arena.take<std::uint32_t>(words_for(words, F::kPerWord) * width);
    z = arena.take<float>((regions + words) * width);
    pair_bytes = Attention<F>(nullptr, regions, words).arena.used();
    pairs = arena.take<std::byte>(kGroup * pair_bytes);
  }

  /// Where a matrix is calculated before `to_words`. One float is one word: it stays where it is.
  HWY_INLINE float* before(std::uint32_t* words, std::size_t which) const {
    return F::kPerWord == 1 ? reinterpret_cast<float*>(words) : floats[which];
  }

  Arena arena;
  float *group_av, *group_u;  // of a group's pairs: av (R, kGroup), and auᵀ U (kGroup, D)
  float* divisors;            // of them: the products of their sums
  float *h, *h_t, *b;         // λ H (R, T) and its transpose, B (R, T)
  float *largest, *scale;     // of a softmax, per column
  float* weights;             // a pooling softmax, not yet divided by its sum
  float* floats[2];
  std::uint32_t* x;  // of one column block: Aᵀ V Q2 (T, width)
  float* z;          // what tanh is taken of (R + T, width)
  std::size_t pair_bytes;
  std::byte* pairs;
};

/// Rows two by two as words, for bfloat16; float32 has nothing to do.
template <class F>
HWY_INLINE void to_words(const float* matrix, std::size_t rows, std::size_t columns, std::size_t stride,
                         std::uint32_t* words) {
  if constexpr (F::kPerWord > 1) {
    const DF d;
    const DU du;
    for (std::size_t i = 0; i < rows; i += 2) {
      for (std::size_t j = 0; j < columns; j += hn::Lanes(d)) {
        const VF odd = i + 1 < rows ? hn::Load(d, matrix + (i + 1) * stride + j) : hn::Zero(d);
        hn::Store(paired(hn::Load(d, matrix + i * stride + j), odd), du, words + i / 2 * stride + j);
      }
    }
  }
}

/// Per column of h (rows, stride): its softmax, and that divided by its norm; also the largest value and the factor
/// that makes exp(h - largest) the latter.
HWY_INLINE void softmax_of_columns(const float* h, std::size_t rows, std::size_t columns, std::size_t stride,
                                   float* softmax, float* unit, float* largest, float* scale) {
  const DF d;
  for (std::size_t j = 0; j < columns; j += hn::Lanes(d)) {
    VF top = hn::Load(d, h + j);
    for (std::size_t i = 1; i < rows; ++i) top = hn::Max(top, hn::Load(d, h + i * stride + j));
    VF sum = hn::Zero(d);
    VF squares = hn::Zero(d);
    for (std::size_t i = 0; i < rows; ++i) {
      const VF e = exp_of_negative(hn::Sub(hn::Load(d, h + i * stride + j), top));
      hn::Store(e, d, softmax + i * stride + j);
      sum = hn::Add(sum, e);
      squares = hn::MulAdd(e, e, squares);
    }
    // A softmax over n numbers has a norm of at least 1/sqrt(n): nothing to guard against.
    const VF to_softmax = hn::Div(hn::Set(d, 1.0f), sum);
    const VF to_unit = hn::Div(hn::Set(d, 1.0f), hn::Sqrt(squares));
    hn::Store(top, d, largest + j);
    hn::Store(to_unit, d, scale + j);
    for (std::size_t i = 0; i < rows; ++i) {
      const VF e = hn::Load(d, softmax + i * stride + j);
      hn::Store(hn::Mul(e, to_softmax), d, softmax + i * stride + j);
      hn::Store(hn::Mul(e, to_unit), d, unit + i * stride + j);
    }
  }
}

/// H = tanh(V K Uᵀ), its softmaxes both ways, and Su.
template <class F>
HWY_INLINE void attend(const Model& model, const Image<F>& image, std::size_t regions, const Caption<F>& caption,
                       std::size_t words, const Scratch<F>& s, const Attention<F>& pair, Ahead& ahead) {
  const DF d;
  const std::size_t stride = row_stride<F>(model);
  const std::size_t depth = up(model.embed_dim, block_width()) / F::kPerWord;
  dot_product<F>(regions, words, image.vk, stride, caption.u, stride, depth, s.h, pair.t_stride);
  const VF scale = hn::Set(d, model.attention_scale);
  for (std::size_t i = 0; i < regions; ++i) {
    for (std::size_t j = 0; j < words; j += hn::Lanes(d)) {
      float* at = s.h + i * pair.t_stride + j;
      hn::Store(hn::Mul(scale, tanh_of(hn::Load(d, at))), d, at);
    }
    for (std::size_t j = 0; j < words; ++j) s.h_t[j * pair.r_stride + i] = s.h[i * pair.t_stride + j];
  }

  float* hu = s.before(pair.hu, 0);
  float* a = s.before(pair.a, 1);
  softmax_of_columns(s.h_t, words, regions, pair.r_stride, hu, a, s.largest, s.scale);
  to_words<F>(hu, words, regions, pair.r_stride, pair.hu);
  to_words<F>(a, words, regions, pair.r_stride, pair.a);

  float* a_r = s.before(pair.a_r, 0);
  for (std::size_t i = 0; i < regions; ++i) {
    const VF top = hn::Set(d, s.largest[i]);
    const VF to_unit = hn::Set(d, s.scale[i]);
    for (std::size_t j = 0; j < words; j += hn::Lanes(d)) {
      const VF e = exp_of_negative(hn::Sub(hn::Load(d, s.h + i * pair.t_stride + j), top));
      hn::Store(hn::Mul(e, to_unit), d, a_r + i * pair.t_stride + j);
    }
  }
  to_words<F>(a_r, regions, words, pair.t_stride, pair.a_r);

  float* hv = s.before(pair.hv, 0);
  softmax_of_columns(s.h, regions, words, pair.t_stride, hv, s.b, s.largest, s.scale);
  to_words<F>(hv, regions, words, pair.t_stride, pair.hv);

  float* su = s.before(pair.su, 0);
  const auto b = reinterpret_cast<const std::uint32_t*>(s.b);
  for (std::size_t j = 0; j < words; j += block_width()) {
    product<Float32>(words, nullptr, reinterpret_cast<std::uint32_t*>(su + j), pair.t_stride,
                     {b, pair.t_stride, b + j, pair.t_stride, regions, 0}, {}, ahead);
  }
  to_words<F>(su, words, words, pair.t_stride, pair.su);
  for (std::size_t i = 0; i < regions + words; ++i) hn::Store(hn::Zero(d), d, pair.logits + i * hn::Lanes(d));
}

/// Adds -tanh(z) w / 2 of one column block, or that and w / 2, to the logits; z (rows, width), logits (rows, lanes).
///
/// A pooling softmax does not see what is added to all its logits: times -2 they will do for tanh(z) w.
template <class F, std::size_t kRows>
HWY_INLINE void activate_rows(const float* z, VF w0, VF w1, float* logits) {
  const DF d;
  const std::size_t lanes = hn::Lanes(d);
  VF x[2 * kRows];
  CAAN_UNROLL
  for (std::size_t i = 0; i < 2 * kRows; ++i) x[i] = hn::Load(d, z + i * lanes);
  if constexpr (F::kPerWord == 1) {
    half_complement_of_tanh(x);
  } else {
    coarse_minus_half_tanh(x);
  }
  CAAN_UNROLL
  for (std::size_t i = 0; i < kRows; ++i) {
    const VF sum = hn::MulAdd(x[2 * i], w0, hn::MulAdd(x[2 * i + 1], w1, hn::Load(d, logits + i * lanes)));
    hn::Store(sum, d, logits + i * lanes);
  }
}

template <class F>
HWY_INLINE void activate(const float* z, std::size_t rows, const float* w, float* logits) {
  constexpr std::size_t kRows = kTileRows > 8 ? 4 : 1;
  const DF d;
  const std::size_t lanes = hn::Lanes(d);
  const VF w0 = hn::Load(d, w);
  const VF w1 = hn::Load(d, w + lanes);
  std::size_t i = 0;
  for (; i + kRows <= rows; i += kRows) activate_rows<F, kRows>(z + 2 * lanes * i, w0, w1, logits + lanes * i);
  for (; i < rows; ++i) activate_rows<F, 1>(z + 2 * lanes * i, w0, w1, logits + lanes * i);
}

/// A column block of Zv = tanh(V Q1 + A (Aᵀ V Q2) + Hu U Q3) and Zu = tanh(U Q4 + Su U Q5 + Hvᵀ V Q6), to the logits.
template <class F>
HWY_INLINE void contextualize(const Model& model, const Image<F>& image, std::size_t regions, const Caption<F>& caption,
                              std::size_t words, const Scratch<F>& s, const Attention<F>& pair, std::size_t block,
                              Ahead& ahead) {
  const std::size_t width = block_width();
  const std::size_t r_words = words_for(regions, F::kPerWord);
  const std::size_t t_words = words_for(words, F::kPerWord);
  const std::size_t of_image = r_words * width;
  const std::size_t of_caption = t_words * width;
  const auto z = reinterpret_cast<std::uint32_t*>(s.z);
  product<F, F>(words, nullptr, s.x, width,
                {pair.a_r, pair.t_stride, image.vq2 + block * of_image, width, r_words, of_image}, {}, ahead);
  product<F>(regions, image.vq1 + block * regions * width / F::kPerWord, z, width,
             {pair.a, pair.r_stride, s.x, width, t_words, 0},
             {pair.hu, pair.r_stride, caption.uq3 + block * of_caption, width, t_words, of_caption}, ahead);
  product<F>(words, caption.uq4 + block * words * width / F::kPerWord, z + regions * width, width,
             {pair.su, pair.t_stride, caption.uq5 + block * of_caption, width, t_words, of_caption},
             {pair.hv, pair.t_stride, image.vq6 + block * of_image, width, r_words, of_image}, ahead);
  activate<F>(s.z, regions, model.w_v + block * width, pair.logits);
  activate<F>(s.z + regions * width, words, model.w_u + block * width, pair.logits + regions * hn::Lanes(DF()));
}

/// exp(logit - largest) of each row's logit, the sum of its lanes; returns their sum.
HWY_INLINE float pooling_weights(const float* logits, std::size_t rows, float* weights) {
  const DF d;
  const std::size_t lanes = hn::Lanes(d);
  const std::size_t padded = up(rows, lanes);
  VF top = hn::Set(d, -HUGE_VALF);
  for (std::size_t i = 0; i < rows; ++i) weights[i] = -2.0f * hn::ReduceSum(d, hn::Load(d, logits + i * lanes));
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

/// av and au of one of a group's pairs, and auᵀ U; the divisors are in `group.divisors`.
template <class F>
HWY_INLINE void pool_caption(const Model& model, std::size_t regions, const Caption<F>& caption, std::size_t words,
                             const Scratch<F>& s, const Attention<F>& pair, std::size_t member) {
  const float of_av = pooling_weights(pair.logits, regions, s.weights);
  for (std::size_t i = 0; i < regions; ++i) s.group_av[i * kGroup + member] = s.weights[i];
  const float of_au = pooling_weights(pair.logits + regions * hn::Lanes(DF()), words, s.weights);
  s.divisors[member] = of_av * of_au;
  const std::size_t end = blocks_of(model.embed_dim);
  float* pooled = s.group_u + member * end * block_width();
  const std::size_t done = pool_words<F, 4>(s.weights, caption.u, words, row_stride<F>(model), 0, end, pooled);
  pool_words<F, 1>(s.weights, caption.u, words, row_stride<F>(model), done, end, pooled);
}

/// Two vectors of avᵀ V of each of a group's pairs, times those of auᵀ U, `u_stride` numbers from pair to pair.
template <class F>
HWY_INLINE void pool_block(const float* av, const std::uint32_t* v, std::size_t regions, std::size_t stride,
                           const float* u, std::size_t u_stride, VF (&sums)[kGroup]) {
  const DF d;
  VF left[kGroup], right[kGroup];
  CAAN_UNROLL
  for (std::size_t i = 0; i < kGroup; ++i) left[i] = right[i] = hn::Zero(d);
  for (std::size_t k = 0; k < regions; ++k, v += stride) {
    VF first, second;
    F::load_plain(v, first, second);
    // The rows' next block is the next call's.
    hwy::Prefetch(v + block_width() / F::kPerWord);
    hwy::Prefetch(v + block_width() / F::kPerWord + hn::Lanes(d));
    CAAN_UNROLL
    for (std::size_t i = 0; i < kGroup; ++i) {
      const VF weight = hn::Set(d, av[k * kGroup + i]);
      left[i] = hn::MulAdd(weight, first, left[i]);
      right[i] = hn::MulAdd(weight, second, right[i]);
    }
  }
  CAAN_UNROLL
  for (std::size_t i = 0; i < kGroup; ++i) {
    sums[i] = hn::MulAdd(left[i], hn::Load(d, u + i * u_stride), sums[i]);
    sums[i] = hn::MulAdd(right[i], hn::Load(d, u + i * u_stride + hn::Lanes(d)), sums[i]);
  }
}

/// (avᵀ V) · (auᵀ U) of a group's pairs together: V is read once.
template <class F>
HWY_INLINE void pool_group(const Model& model, const Image<F>& image, std::size_t regions, const Scratch<F>& s,
                           std::size_t number, float* scores) {
  const DF d;
  const std::size_t width = block_width();
  const std::size_t end = blocks_of(model.embed_dim);
  VF sums[kGroup];
  for (VF& sum : sums) sum = hn::Zero(d);
  for (std::size_t block = 0; block < end; ++block) {
    pool_block<F>(s.group_av, image.v + block * width / F::kPerWord, regions, row_stride<F>(model),
                  s.group_u + block * width, end * width, sums);
  }
  for (std::size_t i = 0; i < number; ++i) scores[i] = hn::ReduceSum(d, sums[i]) / s.divisors[i];
}

/// Scores of up to kGroup captions with one image.
template <class F>
HWY_INLINE void score_group(const Model& model, const Image<F>& image, std::size_t regions, const Packed* captions,
                            std::size_t number, std::byte* scratch, float* scores, Ahead ahead) {
  // In float32 an image and a caption fill the second cache: column block by column block, captions side by side read
  // the image once. In bfloat16 they fit, and one caption after the other keeps its own matrices in the first cache.
  constexpr std::size_t kTogether = F::kPerWord == 1 ? kGroup : 1;
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
                    HWY_ATTR { attend(model, image, regions, caption, words, s, pair, ahead); });
    for (std::size_t block = 0; block < blocks_of(model.attention_dim); ++block) {
      each(first, [&](std::size_t, const Caption<F>& caption, std::size_t words, const Attention<F>& pair)
                      HWY_ATTR { contextualize(model, image, regions, caption, words, s, pair, block, ahead); });
    }
    each(first, [&](std::size_t i, const Caption<F>& caption, std::size_t words, const Attention<F>& pair)
                    HWY_ATTR { pool_caption(model, regions, caption, words, s, pair, i); });
  }
  pool_group(model, image, regions, s, number, scores);
}

}  // namespace caan::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
