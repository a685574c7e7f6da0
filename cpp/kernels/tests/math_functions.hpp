#pragma once

#include <cstddef>

namespace caan_test {

/// The functions of simd_math-inl.hpp on one instruction set, over arrays.
struct MathFunctions {
  using Function = void (*)(const float* x, float* out, std::size_t number);
  Function tanh, half_complement_of_tanh;
  Function fixed_tanh;  // null where the instruction set does without
  Function exp_of_negative;
};

/// Those of the best instruction set that hwy::SetSupportedTargetsForTest allows.
MathFunctions find_math_functions();

}  // namespace caan_test
