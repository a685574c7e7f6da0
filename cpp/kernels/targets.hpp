#pragma once

// The instruction sets that the kernels are compiled for: before Highway's first header. Those left out gain little
// over the next lower one, or have vectors of no fixed size, which can't be arrays of registers.
#define CAAN_DISABLED_TARGETS \
  (HWY_SSSE3 | HWY_SSE4 | HWY_AVX3_DL | HWY_SVE | HWY_SVE2 | HWY_SVE_256 | HWY_SVE2_128 | HWY_RVV)
#ifdef CAAN_WITHOUT_AVX512  // for checks that run where they are compiled
#define HWY_DISABLED_TARGETS (CAAN_DISABLED_TARGETS | HWY_AVX3 | HWY_AVX3_ZEN4 | HWY_AVX3_SPR)
#else
#define HWY_DISABLED_TARGETS CAAN_DISABLED_TARGETS
#endif
