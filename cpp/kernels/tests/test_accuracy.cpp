#include <cmath>
#include <limits>

#include "helpers.hpp"

using namespace caan_test;

namespace {

// Measured: 5e-7 and 2e-3. bfloat16 has 8 bits, whose errors average out less with fewer dimensions; the worst cases
// are D = 1 and sharp softmaxes, where rounding H moves attention from one word to another (3e-3).
constexpr double kFloat32Error = 2e-6, kBFloat16Error = 5e-3;

/// On every instruction set, in both precisions.
void check_accuracy(const Drawn& drawn, double bfloat16_error = kBFloat16Error) {
  const std::vector<double> expected = exact_scores(drawn);
  on_each_instruction_set([&] {
    CHECK(difference(scores(drawn), expected) <= kFloat32Error);
    CHECK(difference(scores(drawn, Precision::kBFloat16), expected) <= bfloat16_error);
  });
}

}  // namespace

TEST_CASE("any numbers of regions and words") { check_accuracy(Drawn(21, 37, 1, range(1, 40), range(1, 40)), 2e-3); }

TEST_CASE("any dimensions") {
  for (std::size_t dim = 1; dim <= 70; ++dim) {
    INFO("embed_dim " << dim);
    check_accuracy(Drawn(dim, 71 - dim, 1, {1, 17}, {3, 8}));
    check_accuracy(Drawn(dim, dim, 1, {6}, {5}));
  }
}

TEST_CASE("the longest images and captions") {
  check_accuracy(Drawn(24, 40, 1, {512, 1}, {1, 512, 2}));
  check_accuracy(Drawn(3, 2, 1, {511}, {509}));
}

TEST_CASE("the paper's dimensions, and only one of them") {
  check_accuracy(Drawn(1024, 1024, 1, {36, 10}, {14, 60}), 2e-3);
  check_accuracy(Drawn(1024, 1, 1, {36}, {14}));
  check_accuracy(Drawn(1, 1024, 1, {36}, {14}));
}

TEST_CASE("attention scales") {
  for (const float scale : {-50.0f, 0.0f, 1.0f, 50.0f}) {
    INFO("attention_scale " << scale);
    check_accuracy(Drawn(40, 24, scale, range(1, 12), range(1, 12)), 1e-2);
  }
}

TEST_CASE("zero rows, and items that are all zeros") {
  Drawn drawn(20, 20, 1, {5, 7}, {4, 6});
  std::fill_n(drawn.images[0].begin(), drawn.image_width(), 0.0f);
  std::fill_n(drawn.captions[0].begin() + 2 * static_cast<std::ptrdiff_t>(drawn.caption_width()), drawn.caption_width(),
              0.0f);
  std::fill(drawn.images[1].begin(), drawn.images[1].end(), 0.0f);
  check_accuracy(drawn);
}

TEST_CASE("denormal states") {
  // Scaled by 1e-40: VK and VQ1 of the first image, all of the second; UQ4 and UQ5 of the first caption.
  Drawn drawn(20, 20, 1, {5, 7}, {4, 6});
  for (std::size_t i = 0; i < drawn.images[0].size(); ++i) {
    if (i % drawn.image_width() >= 20 && i % drawn.image_width() < 60) drawn.images[0][i] *= 1e-40f;
  }
  for (float& x : drawn.images[1]) x *= 1e-40f;
  for (std::size_t i = 0; i < drawn.captions[0].size(); ++i) {
    if (i % drawn.caption_width() >= 40) drawn.captions[0][i] *= 1e-40f;
  }
  check_accuracy(drawn);
}

TEST_CASE("weights so extreme that every tanh is 1 or -1") {
  Drawn drawn(20, 20, 50, range(1, 9), range(1, 9));
  for (auto* items : {&drawn.images, &drawn.captions}) {
    const std::size_t width = items == &drawn.images ? drawn.image_width() : drawn.caption_width();
    for (auto& item : *items) {
      for (std::size_t i = 0; i < item.size(); ++i) {
        if (i % width >= drawn.embed_dim) item[i] *= 1e6f;
      }
    }
  }
  const std::vector<double> expected = exact_scores(drawn);
  on_each_instruction_set([&] { CHECK(difference(scores(drawn), expected) <= kFloat32Error); });
}

TEST_CASE("pooling weights so extreme that one region and one word are all") {
  Drawn drawn(20, 20, 1, range(1, 9), range(1, 9));
  for (auto* weights : {&drawn.w_v, &drawn.w_u}) {
    for (float& w : *weights) w *= 1e6f;
  }
  const std::vector<double> expected = exact_scores(drawn);
  on_each_instruction_set([&] {
    CHECK(difference(scores(drawn), expected) <= kFloat32Error);
    // Even among the largest floats there is a largest logit.
    Drawn largest = drawn;
    for (float& w : largest.w_v) w *= 1e28f;
    for (const Precision precision : {Precision::kFloat32, Precision::kBFloat16}) {
      for (const float score : scores(largest, precision)) CHECK(std::abs(score) <= 1.01f);
    }
  });
}

TEST_CASE("pooling weights of 0, too small for their products, and one that is all") {
  Drawn drawn(20, 20, 1, range(1, 9), range(1, 9));
  const float factor = GENERATE(0.0f, 1e-44f, 1e-36f, 1.0f);
  for (auto* weights : {&drawn.w_v, &drawn.w_u}) {
    for (float& w : *weights) w *= factor;
  }
  drawn.w_v[7] *= 100;
  check_accuracy(drawn);
}

TEST_CASE("logits as large as the pooling weights allow") {
  // Zv is 1 in the first region, in every column, and -1 in the others.
  Drawn drawn(24, GENERATE(1u, 300u), 1, range(1, 9), {14});
  std::fill(drawn.w_v.begin(), drawn.w_v.end(), 3.0f);
  for (auto& image : drawn.images) {
    for (std::size_t i = 0; i < image.size(); ++i) {
      const std::size_t column = i % drawn.image_width();
      const bool of_vq1 = column >= 2 * drawn.embed_dim && column < 2 * drawn.embed_dim + drawn.attention_dim;
      if (of_vq1) image[i] = i < drawn.image_width() ? 1e6f : -1e6f;
    }
  }
  check_accuracy(drawn);
}

TEST_CASE("a NaN pooling weight spoils all scores") {
  Drawn drawn(20, 20, 1, range(1, 9), range(1, 9));
  (GENERATE(true, false) ? drawn.w_v : drawn.w_u)[19] = std::numeric_limits<float>::quiet_NaN();
  const Precision precision = GENERATE(Precision::kFloat32, Precision::kBFloat16);
  on_each_instruction_set([&] {
    for (const float score : scores(drawn, precision)) CHECK(std::isnan(score));
  });
}

TEST_CASE("stored states are the numbers that they were rounded to") {
  Drawn drawn(33, 19, 1, {1, 2, 36}, {1, 14, 15});
  for (auto* items : {&drawn.images, &drawn.captions}) {
    for (auto& item : *items) {
      item[0] = 3e-6f;                         // a denormal of float16
      std::fill_n(item.end() - 19, 19, 0.0f);  // scale 0
    }
  }
  const StateType type = GENERATE(from_range(std::begin(kStateTypes), std::end(kStateTypes)));
  const std::vector<std::vector<std::byte>> stored = drawn.store(type);
  std::vector<State> images = drawn.image_states(), captions = drawn.caption_states();
  for (std::size_t i = 0; i < 6; ++i) {
    State& state = i < 3 ? images[i] : captions[i - 3];
    state = {stored[i].data(), state.length, type};
  }
  const Precision precision = GENERATE(Precision::kFloat32, Precision::kBFloat16);
  on_each_instruction_set([&] {
    std::vector<float> found(9);
    Scorer(drawn.parameters(), precision, 1).score(images.data(), 3, captions.data(), 3, found.data());
    CHECK(found == scores(drawn, precision));
  });
}
