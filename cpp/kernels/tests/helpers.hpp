/// Shared by several tests: random states, reference scores, every instruction set of this machine.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

// Catch2 version 2, or the same names of version 3.
#if __has_include(<catch2/catch.hpp>)
#include <catch2/catch.hpp>
#else
#include <catch2/catch_all.hpp>
#endif

#include "scorer.hpp"

namespace caan_test {

using caan::kernels::Parameters;
using caan::kernels::Precision;
using caan::kernels::Scorer;
using caan::kernels::State;
using caan::kernels::StateType;

/// The scorer's part of a model, and plausible states: rows of V and U are unit vectors, and tanh's arguments are
/// around 1.
struct Drawn {
  /// Items of these lengths.
  Drawn(std::size_t embed_dim, std::size_t attention_dim, float attention_scale,
        const std::vector<std::size_t>& image_lengths, const std::vector<std::size_t>& caption_lengths);

  Parameters parameters() const { return {embed_dim, attention_dim, attention_scale, w_v.data(), w_u.data()}; }
  std::size_t image_width() const { return 2 * embed_dim + 3 * attention_dim; }
  std::size_t caption_width() const { return embed_dim + 3 * attention_dim; }
  std::vector<State> image_states() const;
  std::vector<State> caption_states() const;
  std::size_t pairs() const { return images.size() * captions.size(); }
  /// Every item's state as `type` stores it, images first; the numbers above become those that it holds then.
  std::vector<std::vector<std::byte>> store(StateType type);

  std::size_t embed_dim, attention_dim;
  float attention_scale;
  std::vector<float> w_v, w_u;
  std::vector<std::vector<float>> images;    // each (regions, image_width)
  std::vector<std::vector<float>> captions;  // each (words, caption_width)
};

/// first, first + 1, ..., last
std::vector<std::size_t> range(std::size_t first, std::size_t last);

/// Scores (images, captions) of a new scorer.
std::vector<float> scores(const Drawn& drawn, Precision precision = Precision::kFloat32, std::size_t threads = 1);

/// Scores (images, captions) by the model's equations in double precision, written plainly.
std::vector<double> exact_scores(const Drawn& drawn);

/// Pooling weights of all pairs: av (images, captions, longest image), au (images, captions, longest caption).
struct Attention {
  std::vector<float> av, au;
};

/// The same in double precision, written plainly.
Attention exact_attention(const Drawn& drawn);

/// The largest difference; infinite if there is a NaN.
double difference(const std::vector<float>& found, const std::vector<double>& expected);

/// Runs the body once for each instruction set that the kernel is compiled for and this processor supports.
void on_each_instruction_set(const std::function<void()>& body);

/// All of them.
constexpr StateType kStateTypes[] = {StateType::kFloat32, StateType::kFloat16, StateType::kBFloat16, StateType::kInt8};

}  // namespace caan_test
