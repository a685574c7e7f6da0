#include "helpers.hpp"

#include <hwy/base.h>
#include <hwy/targets.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <random>

namespace caan_test {
namespace {

std::vector<float> draw(std::size_t number, float scale, std::mt19937& random) {
  std::normal_distribution<float> normal(0, scale);
  std::vector<float> result(number);
  for (float& x : result) x = normal(random);
  return result;
}

/// States of `lengths` items; the first `unit` columns of each row form a unit vector.
std::vector<std::vector<float>> draw_states(const std::vector<std::size_t>& lengths, std::size_t width,
                                            std::size_t unit, std::mt19937& random) {
  std::vector<std::vector<float>> result;
  for (const std::size_t length : lengths) {
    result.push_back(draw(length * width, 0.7f, random));
    for (std::size_t i = 0; i < length; ++i) {
      float* row = result.back().data() + i * width;
      const float norm = std::sqrt(std::inner_product(row, row + unit, row, 0.0f));
      for (std::size_t j = 0; j < unit; ++j) row[j] /= norm;
    }
  }
  return result;
}

template <class T>
void append(T value, std::vector<std::byte>& to) {
  const auto* bytes = reinterpret_cast<const std::byte*>(&value);
  to.insert(to.end(), bytes, bytes + sizeof value);
}

/// A number's nearest one of this type, appended to `to`; `x` becomes that number.
void append_rounded(float& x, StateType type, std::vector<std::byte>& to) {
  if (type == StateType::kFloat16) {
    const hwy::float16_t rounded = hwy::F16FromF32(x);
    append(rounded, to);
    x = hwy::F32FromF16(rounded);
  } else if (type == StateType::kBFloat16) {
    const hwy::bfloat16_t rounded = hwy::BF16FromF32(x);
    append(rounded, to);
    x = hwy::F32FromBF16(rounded);
  } else {
    append(x, to);
  }
}

/// One row of int8: a scale per matrix, then all integers.
void append_integers(float* row, const std::vector<std::size_t>& widths, std::vector<std::byte>& to) {
  std::vector<std::byte> integers;
  for (const std::size_t width : widths) {
    float largest = 0;
    for (std::size_t j = 0; j < width; ++j) largest = std::max(largest, std::abs(row[j]));
    const float scale = largest / 127;
    append(scale, to);
    for (std::size_t j = 0; j < width; ++j) {
      const auto integer = static_cast<std::int8_t>(scale > 0 ? std::nearbyint(row[j] / scale) : 0);
      append(integer, integers);
      row[j] = scale * static_cast<float>(integer);
    }
    row += width;
  }
  to.insert(to.end(), integers.begin(), integers.end());
}

std::vector<std::byte> stored(std::vector<float>& item, StateType type, const std::vector<std::size_t>& widths,
                              std::size_t width) {
  std::vector<std::byte> result;
  if (type != StateType::kInt8) {
    for (float& x : item) append_rounded(x, type, result);
    return result;
  }
  for (std::size_t i = 0; i < item.size(); i += width) append_integers(item.data() + i, widths, result);
  return result;
}

std::vector<State> states_of(const std::vector<std::vector<float>>& items, std::size_t width) {
  std::vector<State> result;
  for (const auto& item : items) result.push_back({item.data(), item.size() / width, StateType::kFloat32});
  return result;
}

}  // namespace

Drawn::Drawn(std::size_t embed, std::size_t attention, float scale, const std::vector<std::size_t>& image_lengths,
             const std::vector<std::size_t>& caption_lengths)
    : embed_dim(embed), attention_dim(attention), attention_scale(scale) {
  std::mt19937 random(static_cast<unsigned>(embed * 1000 + attention));
  const float weight = 2 / std::sqrt(static_cast<float>(attention));
  w_v = draw(attention, weight, random);
  w_u = draw(attention, weight, random);
  images = draw_states(image_lengths, image_width(), embed, random);
  captions = draw_states(caption_lengths, caption_width(), embed, random);
}

std::vector<State> Drawn::image_states() const { return states_of(images, image_width()); }
std::vector<State> Drawn::caption_states() const { return states_of(captions, caption_width()); }

std::vector<std::size_t> range(std::size_t first, std::size_t last) {
  std::vector<std::size_t> result(last - first + 1);
  std::iota(result.begin(), result.end(), first);
  return result;
}

std::vector<float> scores(const Drawn& drawn, Precision precision, std::size_t threads) {
  std::vector<float> result(drawn.pairs());
  const auto images = drawn.image_states();
  const auto captions = drawn.caption_states();
  Scorer(drawn.parameters(), precision, threads)
      .score(images.data(), images.size(), captions.data(), captions.size(), result.data());
  return result;
}

double difference(const std::vector<float>& found, const std::vector<double>& expected) {
  double largest = 0;
  for (std::size_t i = 0; i < expected.size(); ++i) {
    const double error = std::abs(found.at(i) - expected[i]);
    if (!(error <= largest)) largest = std::isnan(error) ? std::numeric_limits<double>::infinity() : error;
  }
  return largest;
}

void on_each_instruction_set(const std::function<void()>& body) {
  struct AllAgain {
    ~AllAgain() { hwy::SetSupportedTargetsForTest(0); }
  } all_again;
  const float w = 1;
  std::string last;
  for (std::int64_t left = hwy::SupportedTargets(); left != 0; left &= left - 1) {
    // Only this one; if the kernel is not compiled for it, Highway takes the next best.
    hwy::SetSupportedTargetsForTest(left & -left);
    const std::string name = Scorer({1, 1, 1, &w, &w}, Precision::kFloat32, 1).instruction_set();
    if (name == hwy::TargetName(left & -left)) {
      INFO("instruction set " << name);
      body();
      last = name;
    }
  }
  REQUIRE(!last.empty());
}

std::vector<std::vector<std::byte>> Drawn::store(StateType type) {
  std::vector<std::vector<std::byte>> result;
  for (auto& item : images) {
    result.push_back(
        stored(item, type, {embed_dim, embed_dim, attention_dim, attention_dim, attention_dim}, image_width()));
  }
  for (auto& item : captions) {
    result.push_back(stored(item, type, {embed_dim, attention_dim, attention_dim, attention_dim}, caption_width()));
  }
  return result;
}

}  // namespace caan_test
