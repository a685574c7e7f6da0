#pragma once

#include <cstddef>

namespace caan_test {

/// The functions of simd_math-inl.hpp on one instruction set, over arrays.
struct MathFunctions {
  using Function = void (*)(const float* x, float* out, std::size_t number);
  Function tanh, half_complement_of_tanh;
  Function fixed_tanh;  // null if the instruction set does not use it
  Function exp_of_negative;
};

/// The functions of the best instruction set allowed by hwy::SetSupportedTargetsForTest.
MathFunctions find_math_functions();

}  // namespace caan_test
