// Invariances of a pair's score.
#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "helpers.hpp"

using namespace caan_test;

namespace {

/// The same with only these images and captions, in this order.
Drawn chosen(const Drawn& drawn, const std::vector<std::size_t>& images, const std::vector<std::size_t>& captions) {
  Drawn result = drawn;
  result.images.clear();
  result.captions.clear();
  for (const std::size_t i : images) result.images.push_back(drawn.images[i]);
  for (const std::size_t i : captions) result.captions.push_back(drawn.captions[i]);
  return result;
}

Drawn some() { return Drawn(37, 41, 2, {36, 1, 7, 20, 36}, {14, 3, 1, 40, 14, 9, 2, 5, 8}); }

}  // namespace

TEST_CASE("a score does not depend on the number of threads") {
  const Precision precision = GENERATE(Precision::kFloat32, Precision::kBFloat16);
  on_each_instruction_set([&] {
    const std::vector<float> one = scores(some(), precision, 1);
    for (const std::size_t threads : {2, 3, 8, 40}) CHECK(scores(some(), precision, threads) == one);
  });
}

TEST_CASE("a score does not depend on the other items") {
  const Precision precision = GENERATE(Precision::kFloat32, Precision::kBFloat16);
  on_each_instruction_set([&] {
    const Drawn drawn = some();
    const std::vector<float> together = scores(drawn, precision);
    for (std::size_t i = 0; i < drawn.images.size(); ++i) {
      for (std::size_t j = 0; j < drawn.captions.size(); ++j) {
        CHECK(scores(chosen(drawn, {i}, {j}), precision).at(0) == together[i * drawn.captions.size() + j]);
      }
    }
  });
}

TEST_CASE("a score does not depend on the order of the items") {
  const Precision precision = GENERATE(Precision::kFloat32, Precision::kBFloat16);
  on_each_instruction_set([&] {
    const Drawn drawn = some();
    const std::vector<std::size_t> images{3, 0, 4, 2, 1}, captions{8, 2, 3, 5, 0, 7, 1, 6, 4};
    const std::vector<float> straight = scores(drawn, precision);
    const std::vector<float> mixed = scores(chosen(drawn, images, captions), precision, 2);
    for (std::size_t i = 0; i < images.size(); ++i) {
      for (std::size_t j = 0; j < captions.size(); ++j) {
        CHECK(mixed[i * captions.size() + j] == straight[images[i] * captions.size() + captions[j]]);
      }
    }
  });
}

TEST_CASE("nor on what was scored before") {
  const Drawn first = some();
  Drawn same_model(37, 41, 2, {5, 50}, {60, 1, 2});
  same_model.w_v = first.w_v;
  same_model.w_u = first.w_u;
  on_each_instruction_set([&] {
    Scorer scorer(first.parameters(), Precision::kFloat32, 2);
    for (const Drawn& drawn : {same_model, first, same_model}) {
      const auto images = drawn.image_states(), captions = drawn.caption_states();
      std::vector<float> found(drawn.pairs());
      scorer.score(images.data(), images.size(), captions.data(), captions.size(), found.data());
      CHECK(found == scores(drawn));
    }
  });
}

TEST_CASE("a score does not depend on the order of an image's regions") {
  const Drawn drawn = some();
  Drawn mixed = drawn;
  const auto width = static_cast<std::ptrdiff_t>(drawn.image_width());
  for (auto& image : mixed.images) {
    // Move the first third to the end, then swap first and last.
    const auto regions = static_cast<std::ptrdiff_t>(image.size()) / width;
    std::rotate(image.begin(), image.begin() + regions / 3 * width, image.end());
    if (regions > 1) std::swap_ranges(image.begin(), image.begin() + width, image.end() - width);
  }
  const Precision precision = GENERATE(Precision::kFloat32, Precision::kBFloat16);
  on_each_instruction_set([&] {
    const std::vector<float> straight = scores(drawn, precision);
    const std::vector<double> expected(straight.begin(), straight.end());
    CHECK(difference(scores(mixed, precision), expected) <= (precision == Precision::kFloat32 ? 2e-6 : 5e-3));
  });
}

TEST_CASE("a scorer remembers nothing of the call before") {
  const Drawn drawn = some();
  const std::vector<float> expected = scores(drawn);
  const auto images = drawn.image_states(), captions = drawn.caption_states();
  Scorer scorer(drawn.parameters(), Precision::kFloat32, GENERATE(1u, 2u));
  for (std::size_t i = 0; i < images.size(); ++i) {
    std::vector<float> found(captions.size());
    scorer.score(&images[i], 1, captions.data(), captions.size(), found.data());
    CHECK(std::equal(found.begin(), found.end(), expected.begin() + static_cast<std::ptrdiff_t>(i * captions.size())));
  }
}

TEST_CASE("NaN spoils only the scores of its item") {
  const float bad = GENERATE(std::numeric_limits<float>::quiet_NaN(), -std::numeric_limits<float>::quiet_NaN());
  const Precision precision = GENERATE(Precision::kFloat32, Precision::kBFloat16);
  const Drawn good = some();
  const std::size_t number = good.captions.size();
  // In each part of a state: the middle of its last row's columns.
  const std::size_t embed = good.embed_dim, attention = good.attention_dim;
  const std::vector<std::size_t> of_image{embed / 2, embed + embed / 2, 2 * embed + attention / 2,
                                          2 * embed + attention + attention / 2,
                                          2 * embed + 2 * attention + attention / 2};
  const std::vector<std::size_t> of_caption{embed / 2, embed + attention / 2, embed + attention + attention / 2,
                                            embed + 2 * attention + attention / 2};
  on_each_instruction_set([&] {
    const std::vector<float> expected = scores(good, precision);
    Scorer scorer(good.parameters(), precision, 2);
    const auto check = [&](const Drawn& drawn, const auto& is_bad) {
      // Twice: leftovers of the first run must not affect the second.
      for (int again = 0; again < 2; ++again) {
        const auto images = drawn.image_states(), captions = drawn.caption_states();
        std::vector<float> found(drawn.pairs());
        scorer.score(images.data(), images.size(), captions.data(), captions.size(), found.data());
        for (std::size_t i = 0; i < found.size(); ++i) {
          INFO("image " << i / number << ", caption " << i % number);
          if (is_bad(i / number, i % number)) {
            CHECK(std::isnan(found[i]));
          } else {
            CHECK(found[i] == expected[i]);
          }
        }
      }
    };
    for (const std::size_t column : of_image) {
      INFO("column " << column << " of image 3");
      Drawn drawn = good;
      drawn.images[3][drawn.images[3].size() - drawn.image_width() + column] = bad;
      check(drawn, [](std::size_t image, std::size_t) { return image == 3; });
    }
    for (const std::size_t column : of_caption) {
      INFO("column " << column << " of caption 3");
      Drawn drawn = good;
      drawn.captions[3][drawn.captions[3].size() - drawn.caption_width() + column] = bad;
      check(drawn, [](std::size_t, std::size_t caption) { return caption == 3; });
    }
    check(good, [](std::size_t, std::size_t) { return false; });
  });
}
