#include "limits.hpp"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>
#include <vector>

#include "thread_pool.hpp"

#include "targets.hpp"
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "limits.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "pair-inl.hpp"

HWY_BEFORE_NAMESPACE();
namespace caan::kernels::HWY_NAMESPACE {

/// Returns the number of operations in `rounds` rounds.
template <class F>
double multiply(std::size_t rounds, float* sink) {
  constexpr std::size_t kNumber = 12;  // enough to keep two FMA units busy; fits the registers with 2 operands
  const DF d;
  const DU du;
  // Unknown to the compiler, so that it can't compute the result in advance.
  volatile std::uint32_t factor = 0x3C003C00u;
  const VU a = hn::Set(du, factor);
  const VU b = hn::Set(du, factor);
  VF sums[kNumber];
  CAAN_UNROLL
  for (std::size_t i = 0; i < kNumber; ++i) sums[i] = hn::Set(d, static_cast<float>(i));
  for (std::size_t round = 0; round < rounds; ++round) {
    CAAN_UNROLL
    for (std::size_t i = 0; i < kNumber; ++i) sums[i] = F::multiply_add(a, b, sums[i]);
  }
  VF all = sums[0];
  CAAN_UNROLL
  for (std::size_t i = 1; i < kNumber; ++i) all = hn::Add(all, sums[i]);
  *sink += hn::ReduceSum(d, all);
  return 2.0 * static_cast<double>(F::kPerWord * kNumber * hn::Lanes(d) * rounds);
}

/// From what the products leave in registers on. HWY_NOINLINE: as it is called by the kernel, for any number of rows.
template <class F>
HWY_NOINLINE void activate_rows(const float* from, std::uint32_t* z, std::size_t rows, const float* w,
                                std::uint32_t* sums) {
  const DF d;
  if (!std::is_same_v<typename F::Argument, Float32>) {
    for (std::size_t i = 0; i < rows; ++i) {
      const float* row = from + i * block_width();
      store_row<typename F::Argument>(hn::Load(d, row), hn::Load(d, row + hn::Lanes(d)), z + i * argument_width<F>());
    }
  }
  activate<F>(z, rows, w, 1e-6f, sums);
}

template <class F>
double activate_numbers(std::size_t rounds, float* sink) {
  constexpr std::size_t kRows = 48;
  const std::size_t width = block_width();
  volatile std::size_t rows = kRows;
  HWY_ALIGN float from[kRows * 2 * HWY_MAX_BYTES / sizeof(float)];
  HWY_ALIGN std::uint32_t z[kRows * 2 * HWY_MAX_BYTES / sizeof(float)];
  HWY_ALIGN float w[2 * HWY_MAX_BYTES / sizeof(float)];
  HWY_ALIGN std::uint32_t sums[kRows * HWY_MAX_BYTES / sizeof(float)] = {};
  for (std::size_t i = 0; i < kRows * width; ++i) from[i] = 0.01f * static_cast<float>(i % 200) - 1.0f;
  std::memcpy(z, from, sizeof z);
  std::fill_n(w, width, 1e-3f);
  for (std::size_t round = 0; round < rounds; ++round) activate_rows<F>(from, z, rows, w, sums);
  *sink += static_cast<float>(sums[0]);
  return static_cast<double>(kRows * width * rounds);
}

double float32_multiply(std::size_t rounds, float* sink) { return multiply<Float32>(rounds, sink); }
double bfloat16_multiply(std::size_t rounds, float* sink) { return multiply<BFloat16>(rounds, sink); }
double float32_activate(std::size_t rounds, float* sink) { return activate_numbers<Float32>(rounds, sink); }
double bfloat16_activate(std::size_t rounds, float* sink) { return activate_numbers<BFloat16>(rounds, sink); }

}  // namespace caan::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace caan::kernels {
HWY_EXPORT(float32_multiply);
HWY_EXPORT(bfloat16_multiply);
HWY_EXPORT(float32_activate);
HWY_EXPORT(bfloat16_activate);

namespace {

using Loop = double (*)(std::size_t rounds, float* sink);

/// Operations per second of all threads together; the maximum, since other load can only slow it down.
double per_second(ThreadPool& pool, Loop loop, std::size_t rounds) {
  using Clock = std::chrono::steady_clock;
  double best = 0;
  for (int part = 0; part < 20; ++part) {
    std::vector<double> done(pool.size());
    std::vector<float> sinks(pool.size());
    const auto start = Clock::now();
    pool.run(pool.size(), [&](std::size_t, std::size_t task) { done[task] = loop(rounds, &sinks[task]); });
    const double seconds = std::chrono::duration<double>(Clock::now() - start).count();
    double all = 0;
    for (const double some : done) all += some;
    best = std::max(best, all / seconds);
  }
  return best;
}

}  // namespace

Limits measure_limits(std::size_t threads) {
  ThreadPool pool(threads);
  return {per_second(pool, HWY_DYNAMIC_POINTER(float32_multiply), 2'000'000),
          per_second(pool, HWY_DYNAMIC_POINTER(bfloat16_multiply), 2'000'000),
          per_second(pool, HWY_DYNAMIC_POINTER(float32_activate), 20'000),
          per_second(pool, HWY_DYNAMIC_POINTER(bfloat16_activate), 20'000)};
}

}  // namespace caan::kernels
#endif
