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

/// kWide vectors of columns from column `first` on, row after row in order; `left` columns are there.
template <std::size_t kWide, class T>
HWY_INLINE void pool_columns(const Stored<T>& rows, std::size_t first, std::size_t length, std::size_t left,
                             const float* weights, float* pooled) {
  const DF d;
  const std::size_t lanes = hn::Lanes(d);
  VF sums[kWide];
  CAAN_UNROLL
  for (std::size_t j = 0; j < kWide; ++j) sums[j] = hn::Zero(d);
  for (std::size_t i = 0; i < length; ++i) {
    const typename Stored<T>::Row row(rows, i);
    CAAN_UNROLL
    for (std::size_t j = 0; j < kWide; ++j) {
      sums[j] = hn::MulAdd(hn::Set(d, weights[i]), row.load(first + j * lanes, left - j * lanes), sums[j]);
    }
  }
  CAAN_UNROLL
  for (std::size_t j = 0; j < kWide; ++j) hn::StoreN(sums[j], d, pooled + j * lanes, left - j * lanes);
}

template <class T>
HWY_INLINE void pool_rows(const Stored<T>& rows, std::size_t length, std::size_t columns, const float* weights,
                          float* pooled) {
  constexpr std::size_t kWide = 8;
  const std::size_t lanes = hn::Lanes(DF());
  std::size_t j = 0;
  for (; j + kWide * lanes <= columns; j += kWide * lanes) {
    pool_columns<kWide>(rows, j, length, kWide * lanes, weights, pooled + j);
  }
  for (; j < columns; j += lanes) pool_columns<1>(rows, j, length, columns - j, weights, pooled + j);
}

/// Kernel::pool
inline void pool_state(const State& state, std::size_t width, std::size_t matrices, std::size_t columns,
                       const float* weights, float* pooled) {
  const auto pool = [&](const auto& rows) HWY_ATTR { pool_rows(rows, state.length, columns, weights, pooled); };
  switch (state.type) {
    case StateType::kFloat32:
      return pool(Stored<float>(state.rows, width, matrices, 0, 0));
    case StateType::kFloat16:
      return pool(Stored<hwy::float16_t>(state.rows, width, matrices, 0, 0));
    case StateType::kBFloat16:
      return pool(Stored<hwy::bfloat16_t>(state.rows, width, matrices, 0, 0));
    case StateType::kInt8:
      return pool(Stored<std::int8_t>(state.rows, width, matrices, 0, 0));
  }
}

}  // namespace caan::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
