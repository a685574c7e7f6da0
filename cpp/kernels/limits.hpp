#pragma once

#include <cstddef>

namespace caan::kernels {

/// The processor's peak rates, all threads together, per second.
struct Limits {
  double float32_flop;   // fused multiply-adds on registers, two operations each
  double bfloat16_flop;  // the same of pairs of bfloat16, four operations each
  double float32_tanh;   // the kernel's own activation on numbers in the L1 cache
  double bfloat16_tanh;
};

/// Runs each for about a tenth of a second on this many threads; the fastest of several parts counts.
Limits measure_limits(std::size_t threads);

}  // namespace caan::kernels
