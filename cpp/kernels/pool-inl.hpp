// Weighted sums of a state's rows as they are stored. Included once per instruction set, by kernel.cpp.

#if defined(CAAN_KERNELS_POOL_INL_HPP_) == defined(HWY_TARGET_TOGGLE)
#ifdef CAAN_KERNELS_POOL_INL_HPP_
#undef CAAN_KERNELS_POOL_INL_HPP_
#else
#define CAAN_KERNELS_POOL_INL_HPP_
#endif

#include "layout-inl.hpp"

HWY_BEFORE_NAMESPACE();
namespace caan::kernels::HWY_NAMESPACE {

/// kWide vectors of columns, row after row in order.
template <std::size_t kWide, class T>
HWY_INLINE void pool_columns(const T* rows, std::size_t width, std::size_t length, std::size_t left,
                             const float* weights, float* pooled) {
  const DF d;
  const std::size_t lanes = hn::Lanes(d);
  VF sums[kWide];
  CAAN_UNROLL
  for (std::size_t j = 0; j < kWide; ++j) sums[j] = hn::Zero(d);
  for (std::size_t i = 0; i < length; ++i) {
    CAAN_UNROLL
    for (std::size_t j = 0; j < kWide; ++j) {
      const VF row = load_stored(rows + i * width + j * lanes, left - j * lanes);
      sums[j] = hn::MulAdd(hn::Set(d, weights[i]), row, sums[j]);
    }
  }
  CAAN_UNROLL
  for (std::size_t j = 0; j < kWide; ++j) hn::StoreN(sums[j], d, pooled + j * lanes, left - j * lanes);
}

template <class T>
HWY_INLINE void pool_rows(const T* rows, std::size_t width, std::size_t length, std::size_t columns,
                          const float* weights, float* pooled) {
  constexpr std::size_t kWide = 8;
  const std::size_t lanes = hn::Lanes(DF());
  std::size_t j = 0;
  for (; j + kWide * lanes <= columns; j += kWide * lanes) {
    pool_columns<kWide>(rows + j, width, length, kWide * lanes, weights, pooled + j);
  }
  for (; j < columns; j += lanes) pool_columns<1>(rows + j, width, length, columns - j, weights, pooled + j);
}

/// Kernel::pool
inline void pool_state(const State& state, std::size_t width, std::size_t columns, const float* weights,
                       float* pooled) {
  if (state.half) {
    return pool_rows(static_cast<const hwy::float16_t*>(state.rows), width, state.length, columns, weights, pooled);
  }
  pool_rows(static_cast<const float*>(state.rows), width, state.length, columns, weights, pooled);
}

}  // namespace caan::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
