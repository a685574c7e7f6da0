// Pooling weights against double precision, and items pooled with them.
#include <cmath>
#include <limits>

#include "helpers.hpp"

using namespace caan_test;

namespace {

std::size_t longest(const std::vector<State>& states) {
  std::size_t length = 0;
  for (const State& state : states) length = std::max(length, state.length);
  return length;
}

/// The weights of all pairs, from a new scorer.
Attention attention(const Drawn& drawn, Precision precision = Precision::kFloat32, std::size_t threads = 1) {
  const auto images = drawn.image_states(), captions = drawn.caption_states();
  // Bytes that no result has.
  Attention found{std::vector<float>(drawn.pairs() * longest(images), -77),
                  std::vector<float>(drawn.pairs() * longest(captions), -77)};
  Scorer(drawn.parameters(), precision, threads)
      .attend(images.data(), images.size(), captions.data(), captions.size(), found.av.data(), found.au.data());
  return found;
}

struct Pooled {
  std::vector<float> images, captions;  // (items, D)
};

Pooled pooled(const Drawn& drawn, Precision precision = Precision::kFloat32, std::size_t threads = 1) {
  const auto images = drawn.image_states(), captions = drawn.caption_states();
  Pooled result{std::vector<float>(images.size() * drawn.embed_dim),
                std::vector<float>(captions.size() * drawn.embed_dim)};
  Scorer scorer(drawn.parameters(), precision, threads);
  scorer.pool_images(images.data(), images.size(), captions.data(), captions.size(), result.images.data());
  scorer.pool_captions(captions.data(), captions.size(), images.data(), images.size(), result.captions.data());
  return result;
}

std::vector<double> wide(const std::vector<float>& numbers) { return {numbers.begin(), numbers.end()}; }

/// Items pooled with their mean weights; the weights of item i with item j of the others begin at
/// (i * step + j * other_step) * length.
std::vector<double> expected_pooled(const std::vector<float>& weights, const std::vector<State>& items,
                                    std::size_t others, std::size_t step, std::size_t other_step, std::size_t width,
                                    std::size_t dim) {
  const std::size_t length = longest(items);
  std::vector<double> result(items.size() * dim);
  for (std::size_t i = 0; i < items.size(); ++i) {
    for (std::size_t j = 0; j < others; ++j) {
      for (std::size_t row = 0; row < items[i].length; ++row) {
        const double weight = weights[(i * step + j * other_step) * length + row] / static_cast<double>(others);
        const float* state = static_cast<const float*>(items[i].rows) + row * width;
        for (std::size_t k = 0; k < dim; ++k) result[i * dim + k] += weight * state[k];
      }
    }
  }
  return result;
}

Drawn some() { return Drawn(37, 41, 2, {36, 1, 7, 20, 36}, {14, 3, 1, 40, 14, 9, 2, 5, 8}); }

}  // namespace

TEST_CASE("pooling weights of any numbers of regions and words") {
  for (const Drawn& drawn : {some(), Drawn(1, 70, 1, range(1, 20), range(1, 20)), Drawn(70, 1, 1, {6}, {5})}) {
    const Attention exact = exact_attention(drawn);
    on_each_instruction_set([&] {
      const Attention found = attention(drawn), rounded = attention(drawn, Precision::kBFloat16);
      CHECK(difference(found.av, wide(exact.av)) <= 3e-6);
      CHECK(difference(found.au, wide(exact.au)) <= 3e-6);
      CHECK(difference(rounded.av, wide(exact.av)) <= 2e-2);
      CHECK(difference(rounded.au, wide(exact.au)) <= 2e-2);
    });
  }
}

TEST_CASE("items are pooled with the mean of their weights") {
  const Drawn drawn = some();
  const auto images = drawn.image_states(), captions = drawn.caption_states();
  const Precision precision = GENERATE(Precision::kFloat32, Precision::kBFloat16);
  on_each_instruction_set([&] {
    const Attention weights = attention(drawn, precision);
    const Pooled found = pooled(drawn, precision);
    CHECK(difference(found.images, expected_pooled(weights.av, images, captions.size(), captions.size(), 1,
                                                   drawn.image_width(), drawn.embed_dim)) <= 1e-6);
    CHECK(difference(found.captions, expected_pooled(weights.au, captions, images.size(), 1, captions.size(),
                                                     drawn.caption_width(), drawn.embed_dim)) <= 1e-6);
  });
}

TEST_CASE("weights and pooled items depend neither on threads nor on the other items") {
  const Drawn drawn = some();
  const Precision precision = GENERATE(Precision::kFloat32, Precision::kBFloat16);
  on_each_instruction_set([&] {
    const Attention weights = attention(drawn, precision);
    const Pooled all = pooled(drawn, precision);
    for (const std::size_t threads : {2, 7}) {
      CHECK(attention(drawn, precision, threads).av == weights.av);
      CHECK(attention(drawn, precision, threads).au == weights.au);
      CHECK(pooled(drawn, precision, threads).images == all.images);
      CHECK(pooled(drawn, precision, threads).captions == all.captions);
    }
    for (std::size_t i = 0; i < drawn.images.size(); ++i) {
      Drawn alone = drawn;
      alone.images = {drawn.images[i]};
      const auto begin = all.images.begin() + static_cast<std::ptrdiff_t>(i * drawn.embed_dim);
      CHECK(pooled(alone, precision).images ==
            std::vector<float>(begin, begin + static_cast<std::ptrdiff_t>(drawn.embed_dim)));
    }
    for (std::size_t i = 0; i < drawn.captions.size(); ++i) {
      Drawn alone = drawn;
      alone.captions = {drawn.captions[i]};
      const auto begin = all.captions.begin() + static_cast<std::ptrdiff_t>(i * drawn.embed_dim);
      CHECK(pooled(alone, precision).captions ==
            std::vector<float>(begin, begin + static_cast<std::ptrdiff_t>(drawn.embed_dim)));
    }
  });
}

TEST_CASE("NaN in any part of a state makes its pair's weights NaN") {
  const Precision precision = GENERATE(Precision::kFloat32, Precision::kBFloat16);
  on_each_instruction_set([&] {
    for (std::size_t part = 0; part < 5; ++part) {
      Drawn drawn(20, 24, 1, {5, 7}, {4, 6});
      const std::size_t columns[] = {7, 27, 47, 71, 95};
      drawn.images[0][4 * drawn.image_width() + columns[part]] = std::numeric_limits<float>::quiet_NaN();
      const Attention found = attention(drawn, precision);
      for (std::size_t i = 0; i < 2 * 7; ++i) CHECK(std::isnan(found.av[i]) == (i % 7 < 5));
      for (std::size_t i = 2 * 7; i < 4 * 7; ++i) CHECK(!std::isnan(found.av[i]));
      CHECK(std::isnan(found.au[0]));
      CHECK(!std::isnan(found.au[2 * 6]));
    }
  });
}
