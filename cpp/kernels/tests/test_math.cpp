#include <cmath>
#include <cstring>
#include <limits>

#include "helpers.hpp"
#include "math_functions.hpp"

using namespace caan_test;

namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

float from_bits(std::uint32_t bits) {
  float result;
  std::memcpy(&result, &bits, sizeof result);
  return result;
}

/// Every 1,999th float, special values, and every power of 2 with its neighbours. No NaN.
const std::vector<float>& inputs() {
  static const std::vector<float> result = [] {
    std::vector<float> x;
    for (std::uint64_t bits = 0; bits < std::uint64_t{1} << 32; bits += 1999) {
      const float number = from_bits(static_cast<std::uint32_t>(bits));
      if (!std::isnan(number)) x.push_back(number);
    }
    for (const float sign : {1.0f, -1.0f}) {
      x.insert(x.end(), {sign * 0.0f, sign * kInfinity, sign * std::numeric_limits<float>::max(), sign * 1e-45f});
      for (int exponent = -149; exponent < 128; ++exponent) {
        const float power = sign * std::ldexp(1.0f, exponent);
        x.insert(x.end(), {power, std::nextafter(power, 0.0f), std::nextafter(power, sign * kInfinity)});
      }
    }
    return x;
  }();
  return result;
}

std::vector<float> evaluate(MathFunctions::Function function, const std::vector<float>& x) {
  std::vector<float> result(x.size());
  function(x.data(), result.data(), x.size());
  return result;
}

template <class Exact>
std::vector<double> exactly(const Exact& exact) {
  std::vector<double> result;
  for (const float x : inputs()) result.push_back(exact(static_cast<double>(x)));
  return result;
}

}  // namespace

TEST_CASE("tanh over all floats") {
  const std::vector<double> tanh = exactly([](double x) { return std::tanh(x); });
  // (1 - tanh x) / 2 without the difference.
  const std::vector<double> complement = exactly([](double x) { return 1 / (1 + std::exp(2 * x)); });
  on_each_instruction_set([&] {
    const MathFunctions functions = find_math_functions();
    CHECK(difference(evaluate(functions.tanh, inputs()), tanh) <= 2e-6);
    CHECK(difference(evaluate(functions.half_complement_of_tanh, inputs()), complement) <= 2e-6);
    if (functions.fixed_tanh) CHECK(difference(evaluate(functions.fixed_tanh, inputs()), tanh) <= 9e-4);
  });
}

TEST_CASE("tanh in fixed point is odd and does not decrease") {
  std::vector<float> x, opposite;
  for (int i = -32768; i < 32768; ++i) {
    x.push_back(static_cast<float>(i) / 8192.0f);
    opposite.push_back(-x.back());
  }
  on_each_instruction_set([&] {
    const auto fixed_tanh = find_math_functions().fixed_tanh;
    if (!fixed_tanh) return;
    const std::vector<float> found = evaluate(fixed_tanh, x), other = evaluate(fixed_tanh, opposite);
    for (std::size_t i = 1; i < x.size(); ++i) {
      if (!(found[i] >= found[i - 1] - 5e-4f)) FAIL_CHECK("tanh(" << x[i] << ") is less than what is before");
      if (!(std::abs(found[i] + other[i]) <= 5e-4f)) FAIL_CHECK("tanh(" << x[i] << ") is not that of its opposite");
    }
  });
}

TEST_CASE("exp over all floats up to 0") {
  const std::vector<double> exact = exactly([](double x) { return std::exp(x); });
  on_each_instruction_set([&] {
    const std::vector<float> found = evaluate(find_math_functions().exp_of_negative, inputs());
    double worst = 0;
    for (std::size_t i = 0; i < found.size(); ++i) {
      const float x = inputs()[i];
      if (x > 0) continue;
      if (x >= -87) {
        const double error = std::abs(found[i] / exact[i] - 1);
        worst = error <= worst ? worst : error;
      } else if (!(found[i] >= 0 && found[i] <= 2e-38f)) {
        FAIL_CHECK("exp(" << x << ") is " << found[i]);
      }
    }
    CHECK(worst <= 1e-6);
    CHECK(evaluate(find_math_functions().exp_of_negative, {0.0f, -0.0f, -kInfinity, -1e38f}) ==
          std::vector<float>{1, 1, 0, 0});
  });
}

TEST_CASE("NaN stays NaN, whatever its bits and its place in a vector") {
  std::vector<float> x(40, 0.5f);
  const std::vector<std::uint32_t> bits{0x7FC00000, 0xFFC00000, 0x7F800001, 0xFFFFFFFF, 0x7FFFFFFF};
  for (std::size_t i = 0; i < bits.size(); ++i) x[i * 8 + i] = from_bits(bits[i]);
  on_each_instruction_set([&] {
    const MathFunctions functions = find_math_functions();
    for (const auto function : {functions.tanh, functions.half_complement_of_tanh, functions.exp_of_negative}) {
      const std::vector<float> found = evaluate(function, x);
      for (std::size_t i = 0; i < x.size(); ++i) CHECK(std::isnan(found[i]) == std::isnan(x[i]));
    }
  });
}

TEST_CASE("tanh does not decrease where softmaxes look, and is 0 at 0, 1 and -1 far out") {
  std::vector<float> x;
  for (int i = -20000; i <= 20000; ++i) x.push_back(static_cast<float>(i) * 1e-3f);
  on_each_instruction_set([&] {
    const std::vector<float> found = evaluate(find_math_functions().tanh, x);
    for (std::size_t i = 1; i < x.size(); ++i) {
      if (!(found[i] >= found[i - 1] - 5e-7f)) FAIL_CHECK("tanh(" << x[i] << ") is less than tanh(" << x[i - 1] << ")");
    }
    CHECK(evaluate(find_math_functions().tanh, {0.0f, -0.0f, 25, kInfinity, -25, -kInfinity}) ==
          std::vector<float>{0, 0, 1, 1, -1, -1});
  });
}
