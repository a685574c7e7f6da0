#include "math_functions.hpp"

#include "targets.hpp"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "tests/math_functions.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "simd_math-inl.hpp"

HWY_BEFORE_NAMESPACE();
namespace caan::kernels::HWY_NAMESPACE {

/// `function` on kNumber vectors at a time, the last ones padded with zeros.
template <std::size_t kNumber, class Function>
HWY_INLINE void apply(const float* x, float* out, std::size_t number, const Function& function) {
  const DF d;
  const std::size_t lanes = hn::Lanes(d);
  for (std::size_t first = 0; first < number; first += kNumber * lanes) {
    VF vectors[kNumber];
    for (std::size_t i = 0; i < kNumber; ++i) {
      const std::size_t at = first + i * lanes;
      vectors[i] = at < number ? hn::LoadN(d, x + at, number - at) : hn::Zero(d);
    }
    function(vectors);
    for (std::size_t i = 0; i < kNumber; ++i) {
      const std::size_t at = first + i * lanes;
      if (at < number) hn::StoreN(vectors[i], d, out + at, number - at);
    }
  }
}

void all_tanh(const float* x, float* out, std::size_t number) {
  apply<3>(x, out, number, [](VF(&v)[3]) HWY_ATTR { scaled_tanh(v, 1.0f); });
}
void all_half_complement_of_tanh(const float* x, float* out, std::size_t number) {
  apply<3>(x, out, number, [](VF(&v)[3]) HWY_ATTR { half_complement_of_tanh(v); });
}
#if CAAN_FIXED_TANH
void all_fixed_tanh(const float* x, float* out, std::size_t number) {
  const DF d;
  const Fixed16::D d16;
  const std::size_t lanes = hn::Lanes(d);
  HWY_ALIGN std::int16_t found[hn::MaxLanes(Fixed16::D())], order[hn::MaxLanes(Fixed16::D())];
  hn::Store(Fixed16::of(hn::Iota(d, 0), hn::Iota(d, lanes)), d16, order);
  for (std::size_t first = 0; first < number; first += 2 * lanes) {
    VF halves[2];
    for (std::size_t i = 0; i < 2; ++i) {
      const std::size_t at = first + i * lanes;
      halves[i] = at < number ? hn::LoadN(d, x + at, number - at) : hn::Zero(d);
      halves[i] = hn::Mul(halves[i], hn::Set(d, Fixed16::kOne));
    }
    hn::Vec<Fixed16::D> fixed[1] = {Fixed16::of(halves[0], halves[1])};
    fixed_tanh(fixed);
    hn::Store(fixed[0], d16, found);
    for (std::size_t i = 0; i < 2 * lanes; ++i) {
      const std::size_t at = first + static_cast<std::size_t>(order[i]);
      if (at < number) out[at] = static_cast<float>(found[i]) / Fixed16::kOne;
    }
  }
}
#else
constexpr auto all_fixed_tanh = nullptr;
#endif
void all_exp_of_negative(const float* x, float* out, std::size_t number) {
  apply<1>(x, out, number, [](VF(&v)[1]) HWY_ATTR { v[0] = exp_of_negative(v[0]); });
}

caan_test::MathFunctions make_math_functions() {
  return {all_tanh, all_half_complement_of_tanh, all_fixed_tanh, all_exp_of_negative};
}

}  // namespace caan::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace caan::kernels {
HWY_EXPORT(make_math_functions);
}
caan_test::MathFunctions caan_test::find_math_functions() {
  using namespace caan::kernels;
  return HWY_DYNAMIC_DISPATCH(make_math_functions)();
}
#endif
