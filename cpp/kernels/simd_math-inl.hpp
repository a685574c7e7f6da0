// tanh and exp on whole vectors. Included once per instruction set, by kernel.cpp.

#if defined(CAAN_KERNELS_SIMD_MATH_INL_HPP_) == defined(HWY_TARGET_TOGGLE)
#ifdef CAAN_KERNELS_SIMD_MATH_INL_HPP_
#undef CAAN_KERNELS_SIMD_MATH_INL_HPP_
#else
#define CAAN_KERNELS_SIMD_MATH_INL_HPP_
#endif

#include "products-inl.hpp"

HWY_BEFORE_NAMESPACE();
namespace caan::kernels::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// exp(2x) is 2^(n/kRoots) 2^(r/kRoots) with n an integer and |r| <= 1/2: a table of roots of 2, small enough for one or
// two lookup instructions, and a polynomial for the remainder.
#if HWY_TARGET <= HWY_AVX3
constexpr int kRootBits = 5;
#else
constexpr int kRootBits = 2;
#endif
constexpr int kRoots = 1 << kRootBits;

/// The bits of 2^(i/32), less i * 2^18: (n * 2^18) added to the entry of n's last 5 bits makes the bits of 2^(n/32).
HWY_ALIGN constexpr std::uint32_t kRootsOf32[32] = {
    0x3F800000, 0x3F7ECD87, 0x3F7DAAC3, 0x3F7C980F, 0x3F7B95C2, 0x3F7AA43A, 0x3F79C3D3, 0x3F78F4F0,
    0x3F7837F0, 0x3F778D3A, 0x3F76F532, 0x3F767043, 0x3F75FED7, 0x3F75A15B, 0x3F75583F, 0x3F7523F6,
    0x3F7504F3, 0x3F74FBAF, 0x3F7508A4, 0x3F752C4D, 0x3F75672A, 0x3F75B9BE, 0x3F76248C, 0x3F76A81E,
    0x3F7744FD, 0x3F77FBB8, 0x3F78CCDF, 0x3F79B907, 0x3F7AC0C7, 0x3F7BE4BA, 0x3F7D257D, 0x3F7E83B3};

/// Every eighth of them: the same for 2^(n/4). Repeated for each half of a vector of 8.
HWY_ALIGN constexpr std::uint32_t kRootsOf4[8] = {0x3F800000, 0x3F7837F0, 0x3F7504F3, 0x3F7744FD,
                                                  0x3F800000, 0x3F7837F0, 0x3F7504F3, 0x3F7744FD};

/// The table's entries for the last kRootBits of n.
HWY_INLINE VU root_of(VU n) {
  const DU du;
#if HWY_TARGET <= HWY_AVX3
  return hn::TwoTablesLookupLanes(du, hn::Load(du, kRootsOf32), hn::Load(du, kRootsOf32 + 16),
                                  hn::IndicesFromVec(du, hn::And(n, hn::Set(du, 31u))));
#elif HWY_TARGET == HWY_AVX2
  // Highway's lookup works across halves, two instructions on some processors. This one uses only 2 bits.
  const DF d;
  return hn::BitCast(du, VF{_mm256_permutevar_ps(hn::BitCast(d, hn::Load(du, kRootsOf4)).raw, n.raw)});
#else
  return hn::TableLookupLanes(hn::Load(du, kRootsOf4), hn::IndicesFromVec(du, hn::And(n, hn::Set(du, 3u))));
#endif
}

/// 2^(r/kRoots) for |r| <= 1/2, to a relative error of 4e-7.
HWY_INLINE VF exp_of_steps(VF r) {
  const DF d;
#if HWY_TARGET <= HWY_AVX3
  VF p = hn::MulAdd(hn::Set(d, 2.34596e-4f), r, hn::Set(d, 0.0216608494f));
#else
  VF p = hn::MulAdd(hn::Set(d, 8.66759123e-4f), r, hn::Set(d, 1.50219361e-2f));
  p = hn::MulAdd(p, r, hn::Set(d, 0.17328693f));
#endif
  return hn::MulAdd(p, r, hn::Set(d, 1.0f));
}

/// x becomes 1 / (1 + exp(2x)), which is (1 - tanh x) / 2, to an absolute error of 2e-7. NaN stays NaN.
///
/// On AVX-512 this takes 7 operations of the FMA units, which the products need, plus others elsewhere: fewer than a
/// quotient of polynomials, or a division. With AVX2 a division is cheaper than its replacement. Several vectors are
/// interleaved: a single one stalls on its latency, and the out-of-order window is too short to reach the next.
template <std::size_t kNumber>
HWY_INLINE void half_complement_of_tanh(VF (&x)[kNumber]) {
  const DF d;
  const DU du;
  // Beyond 20 the result is constant. The limit comes first: a comparison with NaN gives the second operand.
  const VF limit = hn::Set(d, 20.0f);
  const VF one = hn::Set(d, 1.0f);
  const VF steps = hn::Set(d, 2.88539008f * kRoots);  // 2 / ln 2, times that
  // So large that its last bit has the value 1: adding it rounds, and leaves n in the last bits.
  const VF magic = hn::Set(d, 12582912.0f);  // 1.5 * 2^23
  VF r[kNumber];
  VU n[kNumber];
  CAAN_UNROLL
  for (std::size_t i = 0; i < kNumber; ++i) x[i] = hn::Max(hn::Neg(limit), hn::Min(limit, x[i]));
  CAAN_UNROLL
  for (std::size_t i = 0; i < kNumber; ++i) n[i] = hn::BitCast(du, hn::MulAdd(x[i], steps, magic));
  CAAN_UNROLL
  for (std::size_t i = 0; i < kNumber; ++i) {
    r[i] = hn::MulSub(x[i], steps, hn::Sub(hn::BitCast(d, n[i]), magic));
  }
  CAAN_UNROLL
  for (std::size_t i = 0; i < kNumber; ++i) {
    x[i] = hn::BitCast(d, hn::Add(root_of(n[i]), hn::ShiftLeft<23 - kRootBits>(n[i])));
  }
  CAAN_UNROLL
  for (std::size_t i = 0; i < kNumber; ++i) r[i] = exp_of_steps(r[i]);
  CAAN_UNROLL
  for (std::size_t i = 0; i < kNumber; ++i) x[i] = hn::MulAdd(x[i], r[i], one);
#if HWY_TARGET <= HWY_AVX3
  CAAN_UNROLL
  for (std::size_t i = 0; i < kNumber; ++i) r[i] = hn::ApproximateReciprocal(x[i]);  // 14 bits
  // A Newton step makes them 23.
  CAAN_UNROLL
  for (std::size_t i = 0; i < kNumber; ++i) x[i] = hn::NegMulAdd(x[i], r[i], one);
  CAAN_UNROLL
  for (std::size_t i = 0; i < kNumber; ++i) x[i] = hn::MulAdd(x[i], r[i], r[i]);
#else
  CAAN_UNROLL
  for (std::size_t i = 0; i < kNumber; ++i) x[i] = hn::Div(one, x[i]);
#endif
}

#if CAAN_FIXED_TANH
/// tanh(x) from i / 8 to (i + 1) / 8, i from 0 to 31 and then from -32 to -1, is intercept + slope x, slopes of 15 bits
/// and intercepts of Fixed16's.
HWY_ALIGN constexpr std::int16_t kIntercepts[64] = {
    2,     35,    153,   391,   762,   1249,  1828,  2463,  3117,  3758,  4372,  4928,  5431,  5875,  6260,  6593,
    6862,  7106,  7301,  7466,  7597,  7709,  7801,  7872,  7941,  7988,  8027,  8059,  8087,  8107,  8123,  8044,
    -8044, -8123, -8107, -8087, -8059, -8027, -7988, -7941, -7872, -7801, -7709, -7597, -7466, -7301, -7106, -6862,
    -6593, -6260, -5875, -5431, -4928, -4372, -3758, -3117, -2463, -1828, -1249, -762,  -391,  -153,  -35,   -2};
HWY_ALIGN constexpr std::int16_t kSlopes[64] = {
    32572, 31596, 29735, 27206, 24242, 21124, 18033, 15127, 12508, 10226, 8259,  6640,  5297,  4203,  3322,  2611,
    2072,  1612,  1265,  987,   777,   606,   472,   373,   281,   221,   173,   135,   103,   81,    64,    144,
    144,   64,    81,    103,   135,   173,   221,   281,   373,   472,   606,   777,   987,   1265,  1612,  2072,
    2611,  3322,  4203,  5297,  6640,  8259,  10226, 12508, 15127, 18033, 21124, 24242, 27206, 29735, 31596, 32572};

/// x becomes tanh(x), both in fixed point, to an absolute error of 1e-3, half of bfloat16's at 1: piecewise linear, one
/// piece per eighth. A vector holds twice as many 16-bit numbers, and sums of their products are exact integers.
template <std::size_t kNumber>
HWY_INLINE void fixed_tanh(hn::Vec<Fixed16::D> (&x)[kNumber]) {
  const Fixed16::D d;
  const hn::RebindToUnsigned<Fixed16::D> du;
  hn::Vec<Fixed16::D> slope[kNumber];
  CAAN_UNROLL
  for (std::size_t i = 0; i < kNumber; ++i) {
    const auto piece = hn::IndicesFromVec(d, hn::ShiftRight<10>(hn::BitCast(du, x[i])));
    slope[i] = hn::TwoTablesLookupLanes(d, hn::Load(d, kSlopes), hn::Load(d, kSlopes + 32), piece);
    x[i] = hn::Add(hn::MulFixedPoint15(slope[i], x[i]),
                   hn::TwoTablesLookupLanes(d, hn::Load(d, kIntercepts), hn::Load(d, kIntercepts + 32), piece));
  }
}
#endif

/// x becomes scale * tanh(x), tanh to an absolute error of 3e-7; NaN stays NaN.
template <std::size_t kNumber>
HWY_INLINE void scaled_tanh(VF (&x)[kNumber], float scale) {
  const DF d;
  half_complement_of_tanh(x);
  CAAN_UNROLL
  for (std::size_t i = 0; i < kNumber; ++i) x[i] = hn::MulAdd(hn::Set(d, -2.0f * scale), x[i], hn::Set(d, scale));
}

/// exp to 2 units in the last place for x <= 0, all that a softmax needs; 0 below -87.3, NaN stays NaN.
HWY_INLINE VF exp_of_negative(VF x) {
  const DF d;
  // x = n ln 2 + r with |r| <= ln 2 / 2; ln 2 in two parts, so that n ln 2 is exact.
  const VF n = hn::Round(hn::Mul(x, hn::Set(d, 1.44269504f)));
  VF r = hn::NegMulAdd(n, hn::Set(d, 0.693145752f), x);
  r = hn::NegMulAdd(n, hn::Set(d, 1.42860677e-6f), r);
  VF p = hn::Set(d, 1.98756912e-4f);  // Cephes' expf
  p = hn::MulAdd(p, r, hn::Set(d, 1.39819994e-3f));
  p = hn::MulAdd(p, r, hn::Set(d, 8.33345194e-3f));
  p = hn::MulAdd(p, r, hn::Set(d, 4.16657962e-2f));
  p = hn::MulAdd(p, r, hn::Set(d, 1.66666655e-1f));
  p = hn::MulAdd(p, r, hn::Set(d, 0.5f));
  p = hn::MulAdd(p, hn::Mul(r, r), hn::Add(r, hn::Set(d, 1.0f)));
  const hn::RebindToSigned<DF> di;
  const auto exponent = hn::ShiftLeft<23>(hn::Add(hn::ConvertTo(di, n), hn::Set(di, 127)));
  const VF result = hn::Mul(p, hn::BitCast(d, exponent));
  return hn::IfThenElse(hn::Lt(x, hn::Set(d, -87.3f)), hn::Zero(d), result);
}

}  // namespace caan::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
