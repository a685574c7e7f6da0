#pragma once

// The instruction sets that the kernels are compiled for: before Highway's first header. Those left out gain little
// over the next lower one, or have vectors of no fixed size, which can't be arrays of registers.
#define HWY_DISABLED_TARGETS \
  (HWY_SSSE3 | HWY_SSE4 | HWY_AVX3_DL | HWY_SVE | HWY_SVE2 | HWY_SVE_256 | HWY_SVE2_128 | HWY_RVV)
