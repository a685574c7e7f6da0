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

/// The bits of 2^(i/32), less i * 2^18: (n * 2^18) added to the entry of n's last 5 bits makes the bits of 2^(n/32).
HWY_ALIGN constexpr std::uint32_t kRoots[32] = {
    0x3F800000, 0x3F7ECD87, 0x3F7DAAC3, 0x3F7C980F, 0x3F7B95C2, 0x3F7AA43A, 0x3F79C3D3, 0x3F78F4F0,
    0x3F7837F0, 0x3F778D3A, 0x3F76F532, 0x3F767043, 0x3F75FED7, 0x3F75A15B, 0x3F75583F, 0x3F7523F6,
    0x3F7504F3, 0x3F74FBAF, 0x3F7508A4, 0x3F752C4D, 0x3F75672A, 0x3F75B9BE, 0x3F76248C, 0x3F76A81E,
    0x3F7744FD, 0x3F77FBB8, 0x3F78CCDF, 0x3F79B907, 0x3F7AC0C7, 0x3F7BE4BA, 0x3F7D257D, 0x3F7E83B3};

/// exp(r ln 2 / 32): for |r| <= 1/2 where the table takes the rest, else for all of 0 to 32.
HWY_INLINE VF exp_of_steps(VF r, VF octave) {
  const DF d;
  const VF one = hn::Set(d, 1.0f);
#if HWY_TARGET <= HWY_AVX3
  return hn::MulAdd(hn::MulAdd(hn::Set(d, 2.34596e-4f), r, octave), r, one);
#else
  const VF y = hn::Mul(r, octave);
  VF p = hn::Set(d, 2.0e-4f);
  p = hn::MulAdd(p, y, hn::Set(d, 1.38888889e-3f));
  p = hn::MulAdd(p, y, hn::Set(d, 8.33333333e-3f));
  p = hn::MulAdd(p, y, hn::Set(d, 4.16666667e-2f));
  p = hn::MulAdd(p, y, hn::Set(d, 1.66666667e-1f));
  p = hn::MulAdd(p, y, hn::Set(d, 0.5f));
  p = hn::MulAdd(p, y, one);
  return hn::MulAdd(p, y, one);
#endif
}

/// x becomes 1 / (1 + exp(2x)), which is (1 - tanh x) / 2, to an absolute error of 1e-7. NaN stays NaN.
///
/// exp(2x) is 2^(n/32) 2^(r/32) with n an integer and |r| <= 1/2: a table, and a polynomial of degree 2. On AVX-512
/// this takes 7 operations of the multipliers, which the products need, and what else there is of others: fewer than a
/// quotient of polynomials, and than a division. Several vectors step by step together: one alone waits for
/// itself, and the processor does not look far enough ahead to find the next.
template <std::size_t kNumber>
HWY_INLINE void half_complement_of_tanh(VF (&x)[kNumber]) {
  const DF d;
  const DU du;
  // Beyond 20 nothing changes any more. The limit comes first: a comparison with NaN gives the second operand.
  const VF limit = hn::Set(d, 20.0f);
  const VF one = hn::Set(d, 1.0f);
  const VF steps = hn::Set(d, 92.3324826f);  // 64 / ln 2
  // So large a number that its last bit is 1: adding it rounds, and leaves n in the last bits.
  const VF magic = hn::Set(d, 12582912.0f);     // 1.5 * 2^23
  const VF octave = hn::Set(d, 0.0216608494f);  // ln 2 / 32
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
#if HWY_TARGET <= HWY_AVX3
    const VU root = hn::TwoTablesLookupLanes(du, hn::Load(du, kRoots), hn::Load(du, kRoots + 16),
                                             hn::IndicesFromVec(du, hn::And(n[i], hn::Set(du, 31u))));
    x[i] = hn::BitCast(d, hn::Add(root, hn::ShiftLeft<18>(n[i])));
#else
    const VU last_bits = hn::And(n[i], hn::Set(du, 31u));
    r[i] = hn::Add(r[i], hn::ConvertTo(d, hn::BitCast(hn::RebindToSigned<DF>(), last_bits)));
    x[i] = hn::BitCast(d, hn::Add(hn::BitCast(du, one), hn::ShiftLeft<18>(hn::Sub(n[i], last_bits))));
#endif
  }
  CAAN_UNROLL
  for (std::size_t i = 0; i < kNumber; ++i) r[i] = exp_of_steps(r[i], octave);
  CAAN_UNROLL
  for (std::size_t i = 0; i < kNumber; ++i) x[i] = hn::MulAdd(x[i], r[i], one);
#if HWY_TARGET <= HWY_AVX3
  CAAN_UNROLL
  for (std::size_t i = 0; i < kNumber; ++i) r[i] = hn::ApproximateReciprocal(x[i]);  // 14 bits
  // A step of Newton's method makes them 23.
  CAAN_UNROLL
  for (std::size_t i = 0; i < kNumber; ++i) x[i] = hn::NegMulAdd(x[i], r[i], one);
  CAAN_UNROLL
  for (std::size_t i = 0; i < kNumber; ++i) x[i] = hn::MulAdd(x[i], r[i], r[i]);
#else
  CAAN_UNROLL
  for (std::size_t i = 0; i < kNumber; ++i) x[i] = hn::Div(one, x[i]);
#endif
}

#if HWY_TARGET <= HWY_AVX3
/// -tanh(x) / 2 around i / 8 is intercept[i] + slope[i] x, to 3.8e-4; odd in x.
HWY_ALIGN constexpr float kIntercepts[32] = {
    -0.0f,        -0.00060076847f, -0.0048587745f, -0.01558393f, -0.03418448f, -0.060566418f, -0.093424265f,
    -0.13074068f, -0.17029569f,    -0.21005396f,   -0.24838598f, -0.28414224f, -0.31662712f,  -0.34552043f,
    -0.37078239f, -0.39256386f,    -0.41113185f,   -0.4268131f,  -0.43995437f, -0.45089637f,  -0.45995806f,
    -0.46742836f, -0.47356281f,    -0.47858349f,   -0.48268073f, -0.48601593f, -0.48872478f,  -0.49092057f,
    -0.49269733f, -0.49413276f,    -0.49529075f,   -0.49619978f};
HWY_ALIGN constexpr float kSlopes[32] = {
    -0.49967499f,   -0.49165781f,   -0.46950612f,   -0.43544131f,   -0.39303967f,   -0.34617433f,  -0.29837407f,
    -0.25241778f,   -0.21018917f,   -0.17273239f,   -0.14041883f,   -0.11314689f,   -0.090524815f, -0.072013996f,
    -0.05702897f,   -0.045000031f,  -0.035407693f,  -0.027797927f,  -0.021785395f,  -0.017049882f, -0.013329379f,
    -0.010411973f,  -0.0081277568f, -0.0063414049f, -0.0049456842f, -0.0038559523f, -0.0030056f,   -0.002342331f,
    -0.0018251608f, -0.0014220142f, -0.0011078163f, -0.0008692093f};
#endif

/// x becomes -tanh(x) / 2, to an absolute error of 4e-4, a fifth of what bfloat16 leaves of 1. NaN stays NaN.
template <std::size_t kNumber>
HWY_INLINE void coarse_minus_half_tanh(VF (&x)[kNumber]) {
  const DF d;
#if HWY_TARGET <= HWY_AVX3
  const DU du;
  const VF limit = hn::Set(d, 3.93f);        // the end of the last piece
  const VF magic = hn::Set(d, 12582912.0f);  // as above
  const VF sign = hn::Set(d, -0.0f);
  VF size[kNumber];
  VU piece[kNumber];
  CAAN_UNROLL
  for (std::size_t i = 0; i < kNumber; ++i) size[i] = hn::Min(limit, hn::Abs(x[i]));
  CAAN_UNROLL
  for (std::size_t i = 0; i < kNumber; ++i) {
    piece[i] = hn::And(hn::BitCast(du, hn::MulAdd(size[i], hn::Set(d, 8.0f), magic)), hn::Set(du, 31u));
  }
  CAAN_UNROLL
  for (std::size_t i = 0; i < kNumber; ++i) {
    const auto index = hn::IndicesFromVec(d, piece[i]);
    const VF slope = hn::TwoTablesLookupLanes(d, hn::Load(d, kSlopes), hn::Load(d, kSlopes + 16), index);
    const VF intercept = hn::TwoTablesLookupLanes(d, hn::Load(d, kIntercepts), hn::Load(d, kIntercepts + 16), index);
    // All but the sign is of the absolute value.
    x[i] = hn::Xor(hn::MulAdd(slope, size[i], intercept), hn::And(sign, x[i]));
  }
#else
  half_complement_of_tanh(x);
  CAAN_UNROLL
  for (std::size_t i = 0; i < kNumber; ++i) x[i] = hn::Sub(x[i], hn::Set(d, 0.5f));
#endif
}

/// tanh to an absolute error of 3e-7; NaN stays NaN.
HWY_INLINE VF tanh_of(VF x) {
  const DF d;
  VF complement[1] = {x};
  half_complement_of_tanh(complement);
  return hn::NegMulAdd(hn::Set(d, 2.0f), complement[0], hn::Set(d, 1.0f));
}

/// exp to 2 units in the last place for x <= 0, which is all that a softmax asks for; 0 below -87.3, NaN stays NaN.
HWY_INLINE VF exp_of_negative(VF x) {
  const DF d;
  // x = n ln 2 + r with |r| <= ln 2 / 2; ln 2 in two parts, so that n's multiple of it loses nothing.
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
