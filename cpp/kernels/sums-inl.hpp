// Sums of vectors' lanes. Included once per instruction set.

#if defined(CAAN_KERNELS_SUMS_INL_HPP_) == defined(HWY_TARGET_TOGGLE)
#ifdef CAAN_KERNELS_SUMS_INL_HPP_
#undef CAAN_KERNELS_SUMS_INL_HPP_
#else
#define CAAN_KERNELS_SUMS_INL_HPP_
#endif

#include <hwy/highway.h>

// Accumulators must be registers, so loops over them must be unrolled, whatever the compiler's cost model says.
#undef CAAN_UNROLL
#if defined(__clang__)
#define CAAN_UNROLL _Pragma("clang loop unroll(full)")
#else
#define CAAN_UNROLL _Pragma("GCC unroll 16")
#endif

HWY_BEFORE_NAMESPACE();
namespace caan::kernels::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

/// The sums of four vectors' lanes, of 32 bits each: out (4,).
template <class D, class V = hn::Vec<D>>
HWY_INLINE void store_sums(D d, V a, V b, V c, V e, hn::TFromD<D>* out) {
  const hn::RepartitionToWide<D> wide;
  const auto pair = [d](V x, V y)
                        HWY_ATTR { return hn::Add(hn::InterleaveLower(d, x, y), hn::InterleaveUpper(d, x, y)); };
  const auto ab = hn::BitCast(wide, pair(a, b));
  const auto ce = hn::BitCast(wide, pair(c, e));
  // Each 128-bit block: its contribution to each of the four sums.
  const V sums =
      hn::Add(hn::BitCast(d, hn::InterleaveLower(wide, ab, ce)), hn::BitCast(d, hn::InterleaveUpper(wide, ab, ce)));
  const hn::CappedTag<hn::TFromD<D>, 4> d4;
#if HWY_TARGET <= HWY_AVX3
  const hn::Half<D> d8;
  const auto half = hn::Add(hn::LowerHalf(d8, sums), hn::UpperHalf(d8, sums));
  hn::StoreU(hn::Add(hn::LowerHalf(d4, half), hn::UpperHalf(d4, half)), d4, out);
#elif HWY_TARGET <= HWY_AVX2
  hn::StoreU(hn::Add(hn::LowerHalf(d4, sums), hn::UpperHalf(d4, sums)), d4, out);
#else
  hn::StoreU(sums, d4, out);
#endif
}

}  // namespace caan::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
